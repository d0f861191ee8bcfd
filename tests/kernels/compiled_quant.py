"""What ``quant`` compiles to for the widths of the model's weights."""

from kernels.quant import WARPS, quant_rows, row_constants
from tests.kernels.ahead_of_time import Variant

SIZES = {"rows_total": "i32", "min_step": "fp32"}


def variant(name: str, width: int, source: str, copy: str, *, qat: bool) -> Variant:
    signature = {"source": source, "copy": copy} | SIZES | ({"qat": "*fp32"} if qat else {})
    constants = row_constants(width) | ({} if qat else {"qat": None})
    return Variant(f"{name}, {width} columns", quant_rows, signature, constants, WARPS)


VARIANTS = [
    build
    for width in (128, 512, 1536)
    for build in (
        variant("copy", width, "*fp32", "*bf16", qat=False),
        variant("int6", width, "*fp32", "*bf16", qat=True),
        variant("gradient", width, "*bf16", "*fp32", qat=False),
    )
]
