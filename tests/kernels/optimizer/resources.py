"""What the optimizer's kernels compile to for the model's banks."""

from dataclasses import replace
from typing import Any

import triton

from kernels.optimizer import adamw, gradient_norm, muon_passes, symmetric_product
from kernels.optimizer import statistics as step_statistics
from kernels.optimizer.step_levers import StepLevers
from tests.kernels.tools.ahead_of_time import Variant

BANKS = ((512, 512), (256, 512), (1536, 512), (512, 1536))
LEANING = StepLevers._make(["*fp32"] * len(StepLevers._fields))
LEVERS = LEANING._replace(lean=None)  # pyright: ignore[reportArgumentType]
MAPS = {"sizes": "*i32", "chunks": "*i32", "statistics": "*fp32"}
ADAMW = {
    "tables": adamw.Tables._make([*["*i64"] * 5, "*fp32", "*i32"]),
    "rule": adamw.Rule(*["fp32"] * 6),
    "levers": LEVERS,
    "chunks": "*i32",
    "counts": "*i32",
    **dict.fromkeys(("decision", "statistics"), "*fp32"),
}
NESTEROV = {
    "matrices": "*bf16",
    "levers": LEVERS,
    **dict.fromkeys(("gradient", "momentum", "squares", "decision"), "*fp32"),
}
APPLY = {
    "update": "*bf16",
    "levers": LEVERS,
    "rule": muon_passes.Rule(*["fp32"] * 4),
    **dict.fromkeys(("weight", "average", "decision", "statistics"), "*fp32"),
}
NORMUON = {"update": "*bf16", "decision": "*fp32", "share": "fp32"}
PLAIN = {"moments": None, "CAUTIOUS": False}
LEAN = {"levers": LEANING}


def flat(name: str, kernel: Any, signature: dict[str, Any], **constants: Any) -> Variant:
    return Variant(name, kernel, signature, constants, num_warps=4)


def whole_rows(
    kernel: Any, shape: tuple[int, int], signature: dict[str, Any], **constants: Any
) -> Variant:
    rows, columns = shape
    name = f"{kernel.__name__}, {rows} x {columns}"
    named = [
        constant
        for constant, value in constants.items()
        if value is True or (value is None and constant != "moments")
    ]
    return Variant(
        ", ".join([name, *named]),
        kernel,
        {argument: kind for argument, kind in signature.items() if argument not in constants}
        | {"tile": muon_passes.whole_rows(rows, columns)},
        constants,
        muon_passes.LAUNCH.warps,
    )


def row_moments(shape: tuple[int, int]) -> muon_passes.RowMoments:
    rows, columns = shape
    parts = triton.cdiv(rows, muon_passes.whole_rows(rows, columns).TILE.value)
    return muon_passes.RowMoments("*fp32", "*fp32", parts, triton.next_power_of_2(parts))


def symmetric(side: int, added: bool, power: int) -> Variant:
    """X X^T, or its polynomial, in which the gram matrix itself is added."""
    launch = symmetric_product.launch_of(side, 2)
    square = f"tensordesc<bf16[1, {launch.rows}, {launch.columns}]>"
    parts = 128 if power else 0
    padded = triton.next_power_of_2(parts)
    signature: dict[str, Any] = {
        "strips": f"tensordesc<bf16[1, {launch.rows}, {launch.depth}]>",
        "products": square,
        "norms": symmetric_product.Norms("*fp32" if power else None, power, parts, padded),
        "polynomial": symmetric_product.Polynomial("fp32", "fp32", "fp32"),
        "width": "i32",
    }
    constants: dict[str, Any] = {"SIDE": launch.rows, "DEPTH": launch.depth}
    (signature if added else constants)["squares"] = square if added else None
    return Variant(
        f"{'polynomial' if added else 'gram'} of {side}{', by norms' if power else ''}",
        symmetric_product.symmetric_product,
        signature,
        constants,
        launch.warps,
        launch.stages,
    )


VARIANTS = [
    *(
        flat(
            f"gradient statistics{'' if aligned else ', unaligned'}",
            gradient_norm.gradient_statistics,
            {"addresses": "*i64"} | MAPS,
            CHUNK=gradient_norm.CHUNK,
            BLOCK=gradient_norm.BLOCK,
            ALIGNED=aligned,
        )
        for aligned in (True, False)
    ),
    flat(
        "decide",
        gradient_norm.decide,
        dict.fromkeys(("statistics", "clip", "skip_norm", "decision"), "*fp32")
        | {"counts": "*i32", "count": "i32"},
        PARTIALS=gradient_norm.PARTIALS,
    ),
    *(
        flat(
            f"adamw{'' if aligned else ', unaligned'}",
            adamw.adamw_step,
            ADAMW,
            CHUNK=adamw.LAUNCH.elements,
            ALIGNED=aligned,
            CAUTIOUS=False,
        )
        for aligned in (True, False)
    ),
    flat(
        "adamw, leaning",
        adamw.adamw_step,
        ADAMW | {"levers": LEANING},
        CHUNK=adamw.LAUNCH.elements,
        ALIGNED=True,
        CAUTIOUS=False,
    ),
    flat(
        "adamw, cautious, decays apart",
        adamw.adamw_step,
        ADAMW | {"rule": adamw.Rule._make([*["fp32"] * 5, "*fp32"])},
        CHUNK=adamw.LAUNCH.elements,
        ALIGNED=True,
        CAUTIOUS=True,
    ),
    *(whole_rows(muon_passes.nesterov, s, NESTEROV, SQUARES=256, ROW_NORM=False) for s in BANKS),
    whole_rows(muon_passes.nesterov, (1536, 512), NESTEROV, SQUARES=256, ROW_NORM=True),
    *(
        symmetric(side, added, power)
        for side in (256, 512)
        for added in (False, True)
        for power in (0, 2 - added)
    ),
    *(whole_rows(muon_passes.apply_update, shape, APPLY, **PLAIN) for shape in BANKS),
    whole_rows(muon_passes.apply_update, (512, 512), APPLY, average=None, **PLAIN),
    replace(
        whole_rows(muon_passes.apply_update, (1536, 512), APPLY | LEAN, **PLAIN),
        name="apply_update, 1536 x 512, leaning",
    ),
    *(
        whole_rows(kernel, shape, signature | {"moments": row_moments(shape)}, **constants)
        for shape in BANKS
        for kernel, signature, constants in (
            (muon_passes.move_row_moments, NORMUON, {}),
            (muon_passes.apply_update, APPLY, {"CAUTIOUS": True}),
        )
    ),
    flat(
        "statistics",
        step_statistics.add_statistics,
        {"gradients": "*fp32", "steps": "*i64", "ranges": "*i32"}
        | dict.fromkeys(("decision", "values"), "*fp32"),
        PARTIALS=step_statistics.PARTIALS,
    ),
]
