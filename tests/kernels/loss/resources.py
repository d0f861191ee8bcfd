"""The loss's kernels as a launch in bf16 compiles them, for ``ahead_of_time``."""

from kernels.loss.autograd import (
    ELEMENTS,
    POSITIONS,
    scale_kernel,
    scaled_sum_kernel,
    weighted_sums_kernel,
)
from kernels.loss.cross_entropy import (
    MOST_REGISTERS,
    Targets,
    cross_entropy_kernel,
    entropy_tile,
    further_entropy_kernel,
)
from tests.kernels.tools.ahead_of_time import Variant


def entropy_variant(
    name: str,
    vocabulary: int,
    *,
    learning: bool,
    weighted: bool = False,
    bounded: bool = True,
    further: int = 0,
) -> Variant:
    target_weight = "*fp32" if weighted else None
    signature = {
        "logits": "*bf16",
        "batch": Targets("*i32", target_weight, "*fp32", "i32", "i32", "i32", "i32"),
        "nats": "*fp32",
        "softcap": "fp32",
    }
    constants: dict[str, int] = {
        "LEARNING": learning,
        "APPROXIMATE": learning,
        "BOUNDED": bounded,
        **entropy_tile(vocabulary),
    }
    warps = constants.pop("num_warps")
    kernel, registers = cross_entropy_kernel, None
    if further:
        registers = MOST_REGISTERS
        kernel = further_entropy_kernel
        constants |= {"COUNT": 1 + further, "PADDED_COUNT": 2 * further}
    return Variant(f"loss entropy {name}", kernel, signature, constants, warps, maxnreg=registers)


def sums_variant() -> Variant:
    signature = {
        **dict.fromkeys(("nats", "target_weight", "partial"), "*fp32"),
        "targets": "*i32",
        "positions": "i32",
        "time": "i32",
    }
    return Variant("loss sums", weighted_sums_kernel, signature, {"POSITIONS": POSITIONS})


def scaled_sum_variant() -> Variant:
    signature = {
        **dict.fromkeys(("parts", "total"), "*bf16"),
        "factor": "*fp32",
        **dict.fromkeys(("count", "length"), "i32"),
    }
    return Variant("loss scaled sum", scaled_sum_kernel, signature, {"BLOCK": ELEMENTS})


def scale_variant() -> Variant:
    signature = {"x": "*bf16", "factor": "*fp32", "length": "i32"}
    return Variant("loss scale", scale_kernel, signature, {"BLOCK": ELEMENTS})


VARIANTS = [
    entropy_variant("score", 1024, learning=False),
    entropy_variant("", 1024, learning=True),
    entropy_variant("weighted", 1024, learning=True, weighted=True),
    entropy_variant("softcap 100", 1024, learning=True, bounded=False),
    entropy_variant("V 1000", 1000, learning=True),
    entropy_variant("V 8192", 8192, learning=True, weighted=True),
    entropy_variant("V 8192, further targets", 8192, learning=True, further=2),
    entropy_variant("V 1024, further target", 1024, learning=True, weighted=True, further=1),
    entropy_variant("V 32768", 32_768, learning=True, weighted=True),
    entropy_variant("V 32768, score", 32_768, learning=False),
    sums_variant(),
    scaled_sum_variant(),
    scale_variant(),
]
