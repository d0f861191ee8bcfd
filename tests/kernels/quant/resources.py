"""What ``quant`` compiles to for the widths of the model's weights."""

from kernels.quant.autograd import LAUNCH, quant_rows, row_constants, scaled_gradients
from tests.kernels.tools.ahead_of_time import Variant

SIZES = {"rows_total": "i32", "min_step": "fp32"}
TENSORS = {"source": "*fp32", "copy": "*bf16"}
GRADIENTS = {
    "gradient": "*bf16",
    "weight": "*fp32",
    "into_weight": "*fp32",
    "into_scale": "*fp32",
}


IN_FP8 = TENSORS | {"values": "*fp8e4nv", "scale": "*fp32"}


def variant(name: str, width: int, tensors: dict[str, str], *given: str) -> Variant:
    kernel = scaled_gradients if tensors is GRADIENTS else quant_rows
    optional = {"qat", "row_scale"}
    if kernel is quant_rows:
        optional |= {"values", "scale"} - tensors.keys()
    signature = tensors | SIZES | dict.fromkeys(given, "*fp32")
    constants = row_constants(width) | dict.fromkeys(optional - set(given))
    return Variant(f"{name}, {width} columns", kernel, signature, constants, LAUNCH.warps)


VARIANTS = [
    *(variant("fp8 and int6", width, IN_FP8, "qat", "row_scale") for width in (512, 2048)),
    *(
        build
        for width in (128, 512, 1536)
        for build in (
            variant("copy", width, TENSORS),
            variant("int6", width, TENSORS, "qat"),
            variant("int6 with factors", width, TENSORS, "qat", "row_scale"),
            variant("gradient", width, {"source": "*bf16", "copy": "*fp32"}),
            variant("gradients with factors", width, GRADIENTS, "row_scale"),
            variant("gradients with factors, int6", width, GRADIENTS, "qat", "row_scale"),
        )
    ),
]
