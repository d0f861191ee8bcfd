"""The fused projection as a launch in bf16 compiles it, for ``ahead_of_time``."""

from kernels.attention.qkv_hopper import project_kernel
from kernels.common import stationary
from tests.kernels.tools.ahead_of_time import Variant

FP32 = ("gain", "rope", "rstd", "key_rstd")
BF16 = ("weight", "query", "key", "v")
INTEGERS = ("rows", "length", "rope_stride", "rstd_stride", "key_rstd_stride")
BLOCK = f"{stationary.ROWS.value}, {stationary.DEPTH.value}"
SIGNATURE = {
    "x_NC": f"tensordesc<bf16[{BLOCK}],{stationary.KEPT_BY_COLUMN.value!r}>",
    **dict.fromkeys(BF16, "*bf16"),
    **dict.fromkeys(FP32, "*fp32"),
    **dict.fromkeys(INTEGERS, "i32"),
    "eps": "fp32",
}


def variant(heads: int, kv_heads: int, pairs: int) -> Variant:
    sizes = {"H": heads, "G": kv_heads, "PAIRS": pairs}
    return Variant(
        f"projections {heads} {kv_heads} {pairs}",
        project_kernel,
        SIGNATURE,
        {**sizes, "WIDTH": stationary.WIDEST, "STAGES": stationary.STAGES},
        unaligned=frozenset({"rows", "length", "rstd_stride", "key_rstd_stride"}),
    )


VARIANTS = [variant(8, 4, 8), variant(8, 2, 16), variant(4, 4, 8)]
