"""The fused projection as a launch in bf16 compiles it, for ``ahead_of_time``."""

import triton.language as tl

from kernels.attention.qkv_hopper import Heads, Inputs, Outputs, project_kernel
from kernels.attention.rope import Rope
from kernels.common import stationary
from tests.kernels.tools.ahead_of_time import Variant

BLOCK = f"{stationary.ROWS.value}, {stationary.DEPTH.value}"
SIZES = ("rows", "length", "rstd_stride", "key_rstd_stride")
SIGNATURE = {
    "x_NC": f"tensordesc<bf16[{BLOCK}],{stationary.KEPT_BY_COLUMN.value!r}>",
    "inputs": Inputs("*bf16", "*fp32", "fp32"),
    "outputs": Outputs("*bf16", "*bf16", "*bf16", "*fp32", "*fp32"),
    **dict.fromkeys(SIZES, "i32"),
}


def variant(heads: int, kv_heads: int, pairs: int) -> Variant:
    sizes = {
        "rope": Rope("*fp32", "i32", tl.constexpr(pairs)),
        "heads": Heads(tl.constexpr(heads), tl.constexpr(kv_heads)),
    }
    return Variant(
        f"projections {heads} {kv_heads} {pairs}",
        project_kernel,
        SIGNATURE | sizes,
        {"WIDTH": stationary.WIDEST, "STAGES": stationary.STAGES},
        unaligned=frozenset(SIZES),
    )


VARIANTS = [variant(8, 4, 8), variant(8, 2, 16), variant(4, 4, 8)]
