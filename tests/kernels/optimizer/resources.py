"""What the optimizer's kernels compile to for the model's banks."""

from typing import Any

import triton

from kernels.optimizer import adamw, muon, symmetric_product
from kernels.optimizer import gradient_norm as grad_norm
from kernels.optimizer import statistics as step_statistics
from tests.kernels.tools.ahead_of_time import Variant

BANKS = ((512, 512), (256, 512), (1536, 512), (512, 1536))
LEVERS = dict.fromkeys(("lr_scale", "decay_factor", "averaging_decay"), "*fp32")
MAPS = {"sizes": "*i32", "chunks": "*i32", "statistics": "*fp32"}
ADDRESSES = ("gradients", "weights", "firsts", "seconds", "averages")
ADAMW_NUMBERS = ("share1", "share2", "log_beta1", "log_beta2", "eps", "weight_decay")
NESTEROV = {"matrices": "*bf16"} | dict.fromkeys(
    ("gradient", "momentum", "squares", "decision", "beta"), "*fp32"
)
APPLY = (
    LEVERS
    | {"update": "*bf16"}
    | dict.fromkeys(("weight", "average", "decision", "statistics"), "*fp32")
    | dict.fromkeys(("rate", "weight_decay", "stretch", "min_step"), "fp32")
)


def flat(name: str, kernel: Any, signature: dict[str, str], **constants: Any) -> Variant:
    return Variant(name, kernel, signature, constants, num_warps=4)


def whole_rows(
    kernel: Any, shape: tuple[int, int], signature: dict[str, str], **constants: Any
) -> Variant:
    rows, columns = shape
    name = f"{kernel.__name__}, {rows} x {columns}"
    named = [constant for constant, value in constants.items() if value is True or value is None]
    return Variant(
        ", ".join([name, *named]),
        kernel,
        {argument: kind for argument, kind in signature.items() if argument not in constants},
        muon.row_tile(rows, columns) | constants,
        muon.WARPS,
    )


def symmetric(side: int, added: bool, power: int) -> Variant:
    """X X^T, or its polynomial, in which the gram matrix itself is added."""
    tile = symmetric_product.tile_of(side, 2)
    square = f"tensordesc<bf16[1, {tile.side}, {tile.side}]>"
    signature = {
        "strips": f"tensordesc<bf16[1, {tile.side}, {tile.depth}]>",
        "products": square,
        "width": "i32",
    } | dict.fromkeys("abc", "fp32")
    constants: dict[str, Any] = {"POWER": power, "SIDE": tile.side, "DEPTH": tile.depth}
    for argument, kind, used in (("squares", square, added), ("norms", "*fp32", power > 0)):
        if used:
            signature[argument] = kind
        else:
            constants[argument] = None
    parts = 128 if power else 0
    return Variant(
        f"{'polynomial' if added else 'gram'} of {side}{', by norms' if power else ''}",
        symmetric_product.symmetric_product,
        signature,
        constants | {"PARTS": parts, "PADDED": triton.next_power_of_2(parts)},
        tile.warps,
        tile.stages,
    )


VARIANTS = [
    *(
        flat(
            f"gradient statistics{'' if aligned else ', unaligned'}",
            grad_norm.gradient_statistics,
            {"addresses": "*i64"} | MAPS,
            CHUNK=grad_norm.CHUNK,
            BLOCK=grad_norm.BLOCK,
            ALIGNED=aligned,
        )
        for aligned in (True, False)
    ),
    flat(
        "decide",
        grad_norm.decide,
        dict.fromkeys(("statistics", "clip", "skip_norm", "decision"), "*fp32")
        | {"counts": "*i32", "count": "i32"},
        PARTIALS=grad_norm.PARTIALS,
    ),
    *(
        flat(
            f"adamw{'' if aligned else ', unaligned'}",
            adamw.adamw_step,
            LEVERS
            | MAPS
            | dict.fromkeys(ADDRESSES, "*i64")
            | {"rates": "*fp32", "decision": "*fp32", "counts": "*i32"}
            | dict.fromkeys(ADAMW_NUMBERS, "fp32"),
            CHUNK=adamw.CHUNK,
            ALIGNED=aligned,
        )
        for aligned in (True, False)
    ),
    *(whole_rows(muon.nesterov, s, NESTEROV, SQUARES=256, ROW_NORM=False) for s in BANKS),
    whole_rows(muon.nesterov, (1536, 512), NESTEROV, SQUARES=256, ROW_NORM=True),
    *(
        symmetric(side, added, power)
        for side in (256, 512)
        for added in (False, True)
        for power in (0, 2 - added)
    ),
    *(whole_rows(muon.apply_update, shape, APPLY) for shape in BANKS),
    whole_rows(muon.apply_update, (512, 512), APPLY, average=None),
    flat(
        "statistics",
        step_statistics.add_statistics,
        {"gradients": "*fp32", "steps": "*i64", "ranges": "*i32"}
        | dict.fromkeys(("decision", "values"), "*fp32"),
        PARTIALS=step_statistics.PARTIALS,
    ),
]
