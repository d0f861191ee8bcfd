"""The MLP's kernels as a launch in bf16 compiles them, for ``ahead_of_time``."""

from kernels.common import stationary
from kernels.mlp import products_hopper as mlp_stationary
from kernels.mlp.products import (
    GRADIENT_TILES,
    SIGN_COLUMNS,
    UP_TILES,
    Tile,
    gradient_kernel,
    up_kernel,
)
from tests.kernels.tools.ahead_of_time import Variant

SCALARS = {"rows": "i32", "hidden": "i32", "width": "i32", "slope": "fp32"}


def descriptor(rows: int, columns: int) -> str:
    return f"tensordesc<bf16[{rows}, {columns}]>"


def sizes(tile: Tile) -> dict[str, int]:
    return {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}


def up_variant(tile: Tile) -> Variant:
    signature = {
        "x_NC": descriptor(tile.rows, tile.depth),
        "up_MC": descriptor(tile.columns, tile.depth),
        "activated_NM": descriptor(tile.rows, SIGN_COLUMNS),
        "signs": "*i16",
        **SCALARS,
    }
    return Variant("mlp up", up_kernel, signature, sizes(tile), tile.warps, tile.stages)


def gradient_variant(tile: Tile) -> Variant:
    signature = {
        "dy_NC": descriptor(tile.rows, tile.depth),
        "down_CM": descriptor(tile.depth, tile.columns),
        "activated_NM": descriptor(tile.rows, SIGN_COLUMNS),
        "signs": "*i16",
        "dh_NM": descriptor(tile.rows, SIGN_COLUMNS),
        **SCALARS,
    }
    return Variant("mlp gradient", gradient_kernel, signature, sizes(tile), tile.warps, tile.stages)


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


VARIANTS = [
    up_variant(UP_TILES[2]),
    gradient_variant(GRADIENT_TILES[2]),
    *stationary_variants(),
]
