"""Muon of banks in few passes: momentum, orthogonalisation in batches, update and average."""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.grad_norm import APPLIED, COEFFICIENT, GradientNorm
from kernels.newton_schulz import Batch, Coefficients
from kernels.quant import least_step, on_grid
from kernels.step_levers import StepLevers
from kernels.step_statistics import STATISTICS

TILE = 8_192  # elements of whole rows, 32 a thread: 16 rows of 512 turn into lines of 32 bytes
WARPS = 8
EPS = tl.constexpr(1e-7)


class Bank(NamedTuple):
    """(n, rows, cols) fp32, contiguous: weights, their momentum, and their average if any."""

    weight: Tensor
    momentum: Tensor
    average: Tensor | None


class FusedMuon:
    """A pass before and a pass after the Newton-Schulz products, over whole rows.

        momentum <- beta momentum + gradient
        update    = orthogonalise(gradient + beta momentum) sqrt(max(1, rows / cols))
        weight   <- (1 - rate decay) weight - rate update,  then its average

    Attributes:
        statistics: of each bank, (programs, 3) fp32: squares of the update, of the new weight, and
            of its rounding error on the int6 grid.

    Args:
        banks: what learns.
        norm: whose decision is applied.
        levers: read in every step.
        coefficients: of each Newton-Schulz step.
        dtype: of its products.
        rate, weight_decay: before their levers.
        row_norm: whether rows have length one before the orthogonalisation.
        min_step: floor of the int6 grid's step.
    """

    def __init__(
        self,
        banks: Sequence[Bank],
        norm: GradientNorm,
        levers: StepLevers,
        *,
        coefficients: Coefficients,
        dtype: torch.dtype,
        rate: float,
        weight_decay: float,
        row_norm: bool,
        min_step: float,
    ) -> None:
        self.banks, self.norm, self.levers = list(banks), norm, levers
        self.coefficients, self.rate, self.weight_decay = coefficients, rate, weight_decay
        self.row_norm, self.least_step = row_norm, least_step(min_step)
        self.statistics = [
            torch.zeros(bank.weight.size(0) * tiles(bank.weight), STATISTICS).to(bank.weight)
            for bank in self.banks
        ]
        self.batches, self._places = share_batches([bank.weight for bank in self.banks], dtype)

    def __call__(self, gradients: Sequence[Tensor | None]) -> None:
        """Apply the banks' gradients, (n, rows, cols) fp32, if the norm's decision is to.

        A bank whose gradient is None stays.
        """
        live = [place for place, gradient in enumerate(gradients) if gradient is not None]
        for place in live:
            self._prepare(place, gradients[place])
        found = [batch.orthogonalise(self.coefficients) for batch in self.batches]
        for place in live:
            batch, first = self._places[place]
            self._apply(place, found[batch][first:])

    def _prepare(self, place: int, gradient: Tensor) -> None:
        """Momentum of a bank, and its Nesterov step as matrices of its batch."""
        momentum, (batch, first) = self.banks[place].momentum, self._places[place]
        matrices, squares = self.batches[batch].matrices, self.batches[batch].squares
        nesterov[(tiles(momentum), len(momentum))](
            gradient,
            momentum,
            matrices[first:],
            squares[first:],
            self.norm.decision,
            self.levers.momentum,
            SQUARES=squares.size(1),
            ROW_NORM=self.row_norm,
            **row_tile(momentum),
            num_warps=WARPS,
        )

    def _apply(self, place: int, update: Tensor) -> None:
        """Decay and update a bank, and move its average towards it."""
        weight, _, average = self.banks[place]
        apply_update[(tiles(weight), len(weight))](
            weight,
            average,
            update,
            self.levers.lr_scale,
            self.levers.decay_factor,
            self.levers.averaging_decay,
            self.norm.decision,
            self.statistics[place],
            self.rate,
            self.weight_decay,
            max(1.0, weight.size(1) / weight.size(2)) ** 0.5,
            self.least_step,
            **row_tile(weight),
            num_warps=WARPS,
        )


def share_batches(
    banks: Sequence[Tensor], dtype: torch.dtype
) -> tuple[list[Batch], list[tuple[int, int]]]:
    """Batches for all banks, and of each bank its batch and its first matrix there."""
    shapes: dict[tuple[int, int], int] = {}
    places, counts, most = [], [], []
    for bank in banks:
        short, long = sorted(bank.shape[1:])
        batch = shapes.setdefault((short, long), len(shapes))
        if batch == len(counts):
            counts.append(0)
            most.append(0)
        places.append((batch, counts[batch]))
        counts[batch] += len(bank)
        most[batch] = max(most[batch], tiles(bank))
    batches = [
        Batch(count, *shape, tiles_a_matrix, dtype, banks[0].device)
        for shape, count, tiles_a_matrix in zip(shapes, counts, most, strict=True)
    ]
    return batches, places


def row_tile(bank: Tensor) -> dict[str, Any]:
    """Shape of a bank's matrices, and of the tile of whole rows that a program takes."""
    _, rows, columns = bank.shape
    padded = triton.next_power_of_2(columns)
    return {"ROWS": rows, "COLUMNS": columns, "PADDED": padded, "TILE": max(1, TILE // padded)}


def tiles(bank: Tensor) -> int:
    """Programs a matrix."""
    return math.ceil(bank.size(1) / row_tile(bank)["TILE"])


@triton.jit
def row_offsets(
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr
):
    """This program's rows of matrix ``program_id(1)``: offsets in the bank, in the batch, mask.

    In the batch it lies wide, so tall matrices are turned.
    """
    rows = (tl.program_id(0) * TILE + tl.arange(0, TILE))[:, None]
    columns = tl.arange(0, PADDED)[None, :]
    start = tl.program_id(1).to(tl.int64) * (ROWS * COLUMNS)
    offsets = start + rows * COLUMNS + columns
    wide = start + columns * ROWS + rows if ROWS > COLUMNS else offsets
    return offsets, wide, (rows < ROWS) & (columns < COLUMNS)


@triton.jit
def nesterov(
    gradient,
    momentum,
    matrices,
    squares,
    decision,
    beta,
    SQUARES: tl.constexpr,
    ROW_NORM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,
    TILE: tl.constexpr,
):
    """``momentum <- beta momentum + g``; matrices get ``g + beta momentum``; g is clipped.

    gradient and momentum (n, ROWS, COLUMNS) fp32, matrices (n, short, long) in the compute dtype,
    squares (n, SQUARES) fp32: of the matrices as rounded, a number a program. At the real size,
    banks of 25.95 M weights: 363 MB, 85 us at 4275 GB/s.
    """
    if tl.load(decision + APPLIED) > 0:
        offsets, wide, mask = row_offsets(ROWS, COLUMNS, PADDED, TILE)
        decay = tl.load(beta)
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
        place = tl.program_id(1) * SQUARES + tl.program_id(0)
        tl.store(squares + place, tl.sum(rounded * rounded))


@triton.jit
def apply_update(
    weight,
    average,
    update,
    lr_scale,
    decay_factor,
    averaging_decay,
    decision,
    statistics,
    rate,
    weight_decay,
    stretch,
    min_step,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,
    TILE: tl.constexpr,
):
    """``weight <- (1 - rate * decay) weight - rate * stretch * update``, and the average after it.

    weight and average (n, ROWS, COLUMNS) fp32, update (n, short, long) in the compute dtype,
    statistics (n * programs, 3). At the real size 467 MB, 109 us at 4275 GB/s; the int6 grid's
    divisions are 27 us of issue slots under them.
    """
    if tl.load(decision + APPLIED) > 0:
        offsets, wide, mask = row_offsets(ROWS, COLUMNS, PADDED, TILE)
        step = rate * tl.load(lr_scale)
        before = tl.load(weight + offsets, mask=mask, other=0.0)
        change = tl.load(update + wide, mask=mask, other=0.0).to(tl.float32)
        keep = 1 - step * weight_decay * tl.load(decay_factor)
        after = keep * before - step * stretch * change
        tl.store(weight + offsets, after, mask=mask)
        if average is not None:
            mean = tl.load(average + offsets, mask=mask, other=0.0)
            mean += (1 - tl.load(averaging_decay)) * (after - mean)
            tl.store(average + offsets, mean, mask=mask)
        mine = statistics + 3 * (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0))
        moved, error = after - before, on_grid(after, min_step) - after
        tl.store(mine, tl.sum(moved * moved))
        tl.store(mine + 1, tl.sum(after * after))
        tl.store(mine + 2, tl.sum(error * error))
