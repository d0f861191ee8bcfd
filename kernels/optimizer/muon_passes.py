"""Muon's two passes over whole rows of its banks, around the Newton-Schulz products.

    momentum <- beta momentum + g,  matrices = g + beta momentum
    weight   <- (1 - rate decay) weight - rate stretch update,  then its average, then its lean

With second moments of rows (NorMuon), a pass between the two moves them, and each row of the update
is divided by its root (``kernels.optimizer.reference.even_rows``).

Banks are (n, ROWS, COLUMNS) fp32, matrices and update (n, short, long) in the compute dtype.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from functools import cache
from typing import Any, NamedTuple

import triton
import triton.language as tl

from kernels.common.launch import Launch
from kernels.optimizer.gradient_norm import APPLIED, COEFFICIENT
from kernels.optimizer.symmetric_product import pitch
from kernels.quant.autograd import on_grid

# Elements of whole rows, 16 a thread: three or four programs a multiprocessor. Compiled, not timed,
# in registers of the update of 1536 x 512 and 512 x 1536 (here 74, 64): 8,192 elements 140, 128,
# and one program a multiprocessor; the same with 16 warps 78, 76; 4 warps 130, 127.
LAUNCH = Launch(elements=4_096, warps=8)
EPS = tl.constexpr(1e-7)
SECOND_FLOOR = tl.constexpr(1e-10)  # of a row's second moment, and of a sum over rows


class WholeRows(NamedTuple):
    """Constants of a tile of whole rows of a bank's matrices, each a ``tl.constexpr``."""

    ROWS: Any
    """Of a matrix."""
    COLUMNS: Any
    """Of a matrix."""
    PADDED: Any
    """COLUMNS, to a power of two."""
    TILE: Any
    """Rows of the tile."""
    PITCH: Any
    """Elements from one row of the batch to the next."""


class Rule(NamedTuple):
    """Constants of the update in all steps."""

    rate: Any
    weight_decay: Any
    stretch: Any
    """sqrt(max(1, rows / columns))."""
    min_step: Any
    """Floor of the int6 grid's step, not 0."""


class RowMoments(NamedTuple):
    """Second moments of the update's rows, and sums for the factor that restores its norm."""

    second: Any
    """(n, ROWS, 1) fp32, second moments."""
    sums: Any
    """(n, PARTS, 2) fp32, of a program's rows: mean squares, and those divided by ``second``."""
    PARTS: Any
    """Programs a matrix, ``tl.constexpr`` as is the next."""
    PADDED_PARTS: Any
    """PARTS, to a power of two."""


@cache
def whole_rows(rows: int, columns: int) -> WholeRows:
    """Return the tile of a program on matrices of this shape."""
    padded = triton.next_power_of_2(columns)
    tile = max(1, LAUNCH.elements // padded)
    return WholeRows(*map(tl.constexpr, (rows, columns, padded, tile, pitch(max(rows, columns)))))


@triton.jit
def nesterov(
    gradient,
    momentum,
    matrices,
    squares,
    decision,
    levers,
    tile,
    SQUARES: tl.constexpr,
    ROW_NORM: tl.constexpr,
):
    """``momentum <- beta momentum + g``; matrices get ``g + beta momentum``; g is clipped.

    gradient and momentum (n, ROWS, COLUMNS) fp32, matrices (n, short, long) in the compute dtype,
    squares (n, SQUARES) fp32: sums of squares of the rounded matrices, one a program. Banks of
    25.95 M weights are 363 MB.
    """
    if tl.load(decision + APPLIED) > 0:
        offsets, wide, mask = row_offsets(tile)
        decay = tl.load(levers.momentum)
        value = tl.load(gradient + offsets, mask=mask, other=0.0)
        value *= tl.load(decision + COEFFICIENT)
        moved = decay * tl.load(momentum + offsets, mask=mask, other=0.0) + value
        tl.store(momentum + offsets, moved, mask=mask)
        step = value + decay * moved
        if ROW_NORM:
            step /= tl.sqrt_rn(tl.sum(step * step, axis=1, keep_dims=True)) + EPS
        matrix = step.to(matrices.dtype.element_ty)
        tl.store(matrices + wide, matrix, mask=mask)
        rounded = matrix.to(tl.float32)
        slot = tl.program_id(1) * SQUARES + tl.program_id(0)
        tl.store(squares + slot, tl.sum(rounded * rounded))


@triton.jit
def move_row_moments(update, moments, decision, share, tile):
    """``second <- second + share (mean(update^2) - second)`` of each row; fills ``moments.sums``.

    update (n, short, long) in the compute dtype, moments ``RowMoments``, share is 1 - beta2.
    Updates of 25.95 M weights are 52 MB.
    """
    if tl.load(decision + APPLIED) > 0:
        _, wide, mask = row_offsets(tile)
        change = tl.load(update + wide, mask=mask, other=0.0).to(tl.float32)
        mean = tl.sum(change * change, axis=1) / tile.COLUMNS
        offsets, inside = moment_offsets(tile)
        second = tl.load(moments.second + offsets, mask=inside, other=1.0)
        second += share * (mean - second)
        tl.store(moments.second + offsets, second, mask=inside)
        sums = moments.sums + 2 * (tl.program_id(1) * moments.PARTS + tl.program_id(0))
        tl.store(sums, tl.sum(mean))
        tl.store(sums + 1, tl.sum(mean / tl.maximum(second, SECOND_FLOOR)))


@triton.jit
def row_factors(moments, tile):
    """Return the factor of each row of the update (TILE,), which preserves the matrix's norm."""
    offsets, inside = moment_offsets(tile)
    second = tl.load(moments.second + offsets, mask=inside, other=1.0)
    part = tl.arange(0, moments.PADDED_PARTS)
    sums = moments.sums + 2 * (tl.program_id(1) * moments.PARTS + part)
    before = tl.sum(tl.load(sums, mask=part < moments.PARTS, other=0.0))
    after = tl.sum(tl.load(sums + 1, mask=part < moments.PARTS, other=0.0))
    ratio = tl.div_rn(before, tl.maximum(after, SECOND_FLOOR))
    return tl.sqrt_rn(tl.div_rn(ratio, tl.maximum(second, SECOND_FLOOR)))


@triton.jit
def moment_offsets(tile):
    """Return the offsets of this program's rows among the second moments, and a mask."""
    rows = tl.program_id(0) * tile.TILE + tl.arange(0, tile.TILE)
    return tl.program_id(1) * tile.ROWS + rows, rows < tile.ROWS


@triton.jit
def apply_update(
    weight,
    average,
    update,
    levers,
    decision,
    statistics,
    rule,
    tile,
    moments,
    CAUTIOUS: tl.constexpr,
):
    """``weight <- (1 - rate * decay) weight - rate * stretch * update``, average and lean after it.

    weight and average (n, ROWS, COLUMNS) fp32, update (n, short, long) in the compute dtype,
    statistics (n * programs, 3), moments ``RowMoments`` or None. CAUTIOUS: a weight decays only if
    its update has its sign. Banks of 25.95 M weights are 467 MB, which take longer than the int6
    grid's divisions.
    """
    if tl.load(decision + APPLIED) > 0:
        offsets, wide, mask = row_offsets(tile)
        step = rule.rate * tl.load(levers.lr_scale)
        before = tl.load(weight + offsets, mask=mask, other=0.0)
        change = tl.load(update + wide, mask=mask, other=0.0).to(tl.float32)
        if moments is not None:
            change *= row_factors(moments, tile)[:, None]
        decayed = 1 - step * rule.weight_decay * tl.load(levers.decay_factor)
        if CAUTIOUS:
            decayed = tl.where(change * before >= 0, decayed, 1.0)
        after = decayed * before - step * rule.stretch * change
        if average is None or levers.lean is None:
            tl.store(weight + offsets, after, mask=mask)
        if average is not None:
            mean = tl.load(average + offsets, mask=mask, other=0.0)
            mean += (1 - tl.load(levers.averaging_decay)) * (after - mean)
            tl.store(average + offsets, mean, mask=mask)
            if levers.lean is not None:
                after += tl.load(levers.lean) * (after - mean)
                tl.store(weight + offsets, after, mask=mask)
        program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        results = statistics + 3 * program
        moved, error = after - before, on_grid(after, rule.min_step) - after
        tl.store(results, tl.sum(moved * moved))
        tl.store(results + 1, tl.sum(after * after))
        tl.store(results + 2, tl.sum(error * error))


@triton.jit
def row_offsets(tile):
    """Return this program's offsets in the bank and in the batch, and a mask.

    They are of matrix ``program_id(1)``. Matrices of the batch are wide, so tall ones are
    transposed; rows are PITCH apart there.
    """
    rows = (tl.program_id(0) * tile.TILE + tl.arange(0, tile.TILE))[:, None]
    columns = tl.arange(0, tile.PADDED)[None, :]
    matrix = tl.program_id(1).to(tl.int64)
    offsets = matrix * (tile.ROWS * tile.COLUMNS) + rows * tile.COLUMNS + columns
    if tile.ROWS > tile.COLUMNS:
        wide = matrix * (tile.COLUMNS * tile.PITCH) + columns * tile.PITCH + rows
    else:
        wide = matrix * (tile.ROWS * tile.PITCH) + rows * tile.PITCH + columns
    return offsets, wide, (rows < tile.ROWS) & (columns < tile.COLUMNS)
