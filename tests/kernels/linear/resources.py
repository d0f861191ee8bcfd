"""The fused projection in bf16 and products in fp8 as launches compile them."""

import triton.language as tl

from kernels.attention.qkv_hopper import Heads, Inputs, Outputs, project_kernel
from kernels.attention.rope import Rope
from kernels.common import stationary
from kernels.linear import fp8
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


def product_in_fp8(name: str, add: bool) -> Variant:
    tile = fp8.LAUNCH[2]
    signature = {
        "x_NK": f"tensordesc<fp8e4nv[{tile.rows}, {tile.depth}]>",
        "weight_OK": f"tensordesc<fp8e4nv[{tile.columns}, {tile.depth}]>",
        "y_NO": f"tensordesc<bf16[{tile.rows}, {tile.columns // 2}]>",
        "scales": fp8.Scales("*fp32", "*fp32", "i32", "i32"),
        "width": "i32",
    }
    constants = {"ADD": add, "ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
    return Variant(name, fp8.product_kernel, signature, constants, tile.warps, tile.stages)


VARIANTS = [
    variant(8, 4, 8),
    variant(8, 2, 16),
    variant(4, 4, 8),
    product_in_fp8("product in fp8", add=False),
    product_in_fp8("product in fp8, added", add=True),
]
