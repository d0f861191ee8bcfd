"""The MLP's kernels as a launch in bf16 compiles them, for ``ahead_of_time``."""

from kernels.mlp_products import (
    GRADIENT_TILES,
    SIGN_COLUMNS,
    UP_TILES,
    Tile,
    gradient_kernel,
    up_kernel,
)
from tests.kernels.ahead_of_time import Variant

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


VARIANTS = [up_variant(UP_TILES[2]), gradient_variant(GRADIENT_TILES[2])]
