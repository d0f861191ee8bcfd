"""The MLP's kernels as a launch in bf16 compiles them, for ``ahead_of_time``."""

from kernels.common import stationary
from kernels.mlp import fp8, up_fp8_hopper
from kernels.mlp import products_hopper as mlp_stationary
from kernels.mlp.products import LAUNCH, SIGN_COLUMNS, Signs, product_kernel
from tests.kernels.tools.ahead_of_time import Variant

TILE = LAUNCH[2]


FP8_TILE = fp8.LAUNCH[2]
SCALES = fp8.Scales("*fp32", "*fp32", "*fp32", "fp32")


def descriptor(rows: int, columns: int, dtype: str = "bf16") -> str:
    return f"tensordesc<{dtype}[{rows}, {columns}]>"


def tiled(name: str, weight: str, dh: str | None) -> Variant:
    result = descriptor(TILE.rows, SIGN_COLUMNS)
    signature = {
        "x_NC": descriptor(TILE.rows, TILE.depth),
        "weight": weight,
        "activated_NM": result,
        "signs": Signs("*i16", "i32", "i32"),
        "width": "i32",
        "slope": "fp32",
    }
    constants: dict[str, int | None] = {
        "ROWS": TILE.rows,
        "COLUMNS": TILE.columns,
        "DEPTH": TILE.depth,
    }
    if dh:
        signature["dh_NM"] = dh
    else:
        constants["dh_NM"] = None
    return Variant(name, product_kernel, signature, constants, TILE.warps, TILE.stages)


def stationary_variants() -> list[Variant]:
    """At the real size; the descriptor names its layout, as Gluon's do."""
    block = f"{stationary.ROWS.value}, {stationary.DEPTH.value}"
    streamed = f"tensordesc<bf16[{block}],{stationary.KEPT_BY_COLUMN.value!r}>"
    common = {"activated_NM": "*bf16", "signs": "*i32", "rows": "i32", "slope": "fp32"}
    up = {"x_NC": streamed, "up_MC": "*bf16", **common}
    gradient = {"dy_NC": streamed, "down_CM": "*bf16", **common, "dh_NM": "*bf16"}
    size = {"HIDDEN": 1536, "WIDTH": stationary.WIDEST, "STAGES": stationary.STAGES}
    rows = frozenset({"rows"})
    return [
        Variant("mlp up, stationary", mlp_stationary.up_kernel, up, size, unaligned=rows),
        Variant(
            "mlp gradient, stationary",
            mlp_stationary.gradient_kernel,
            gradient,
            size,
            unaligned=rows,
        ),
    ]


def up_in_fp8() -> Variant:
    rows, columns, depth = FP8_TILE.rows, FP8_TILE.columns, FP8_TILE.depth
    signature = {
        "x_NC": descriptor(rows, depth, "fp8e4nv"),
        "up_MC": descriptor(columns, depth, "fp8e4nv"),
        "activated_NM": descriptor(rows, columns),
        "rounded_NM": descriptor(rows, columns, "fp8e4nv"),
        "scales": SCALES,
        "signs": Signs("*i16", "i32", "i32"),
        "width": "i32",
        "slope": "fp32",
    }
    constants = {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}
    warps, stages = FP8_TILE.warps, FP8_TILE.stages
    return Variant("mlp up in fp8", fp8.up_kernel, signature, constants, warps, stages)


def stationary_up_in_fp8() -> Variant:
    block = f"{stationary.ROWS.value}, {stationary.DEPTH_FP8.value}"
    signature = {
        "x_NC": f"tensordesc<fp8e4nv[{block}],{stationary.ROWS_IN_FP8.value!r}>",
        "up_MC": "*fp8e4nv",
        "scales": SCALES,
        "results": up_fp8_hopper.Results("*bf16", "*fp8e4nv", "*i32"),
        "rows": "i32",
        "slope": "fp32",
    }
    size = {"HIDDEN": 2048, "WIDTH": stationary.WIDEST, "STAGES": up_fp8_hopper.STAGES}
    kernel, rows = up_fp8_hopper.up_kernel, frozenset({"rows"})
    return Variant("mlp up in fp8, stationary", kernel, signature, size, unaligned=rows)


VARIANTS = [
    tiled("mlp up", descriptor(TILE.columns, TILE.depth), None),
    tiled(
        "mlp gradient",
        descriptor(TILE.depth, TILE.columns),
        descriptor(TILE.rows, SIGN_COLUMNS),
    ),
    *stationary_variants(),
    up_in_fp8(),
    stationary_up_in_fp8(),
]
