"""The loss's kernels as a launch in bf16 compiles them, for ``ahead_of_time``."""

from kernels.loss import (
    ELEMENTS,
    POSITIONS,
    cross_entropy_kernel,
    entropy_tile,
    scaled_sum_kernel,
    weighted_sums_kernel,
)
from tests.kernels.ahead_of_time import Variant


def entropy_variant(name: str, vocabulary: int, *, learning: bool, weighted: bool) -> Variant:
    signature = {
        "logits": "*bf16",
        "targets": "*i32",
        "weight_sums": "*fp32",
        "nats": "*fp32",
        **dict.fromkeys(("first", "rows", "positions", "time"), "i32"),
        "softcap": "fp32",
    }
    constants: dict[str, int | None] = {"LEARNING": learning, **entropy_tile(vocabulary)}
    warps = constants.pop("num_warps")
    assert warps
    for pointer in ("target_weight", "mtp_weight"):
        if weighted:
            signature[pointer] = "*fp32"
        else:
            constants[pointer] = None
    return Variant(f"loss entropy {name}", cross_entropy_kernel, signature, constants, warps)


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


VARIANTS = [
    entropy_variant("main, score", 1024, learning=False, weighted=False),
    entropy_variant("main", 1024, learning=True, weighted=False),
    entropy_variant("MTP, weighted", 1024, learning=True, weighted=True),
    entropy_variant("MTP, weighted, V 8192", 8192, learning=True, weighted=True),
    sums_variant(),
    scaled_sum_variant(),
]
