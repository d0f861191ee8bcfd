"""Muon of banks in few passes: momentum, orthogonalisation in batches, update and average.

Most of a batch's products are one wave of multiprocessors or less, and leave some idle; its passes
before and after them leave the tensor cores idle. So each batch's launches go on a stream of their
own, beside the others'.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.streams import Side
from kernels.optimizer.gradient_norm import APPLIED, COEFFICIENT, GradientNorm
from kernels.optimizer.newton_schulz import Batch, Coefficients
from kernels.optimizer.statistics import STATISTICS
from kernels.optimizer.step_levers import StepLevers
from kernels.optimizer.symmetric_product import pitch
from kernels.quant.autograd import least_step, on_grid

TILE = 4_096  # elements of whole rows, 16 a thread: three or four programs a multiprocessor
WARPS = 8
# Lanes of ``kernels.common.streams`` for the chains of launches, the longest first, and what runs
# beside them; None: the current stream; those beyond the last one's too.
LANES: tuple[int | None, ...] = (None, 0, 1, 2)
EPS = tl.constexpr(1e-7)


class Bank(NamedTuple):
    """(n, rows, cols) fp32, contiguous: weights, their momentum, and their average if any."""

    weight: Tensor
    momentum: Tensor
    average: Tensor | None

    @property
    def tile(self) -> dict[str, Any]:
        """What a program takes."""
        return row_tile(*self.weight.shape[1:])

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles a matrix, matrices."""
        return math.ceil(self.weight.size(1) / self.tile["TILE"]), len(self.weight)


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
            torch.zeros(math.prod(bank.grid), STATISTICS, device=bank.weight.device)
            for bank in self.banks
        ]
        self.batches, self._places = share_batches(self.banks, dtype)

    def __call__(self, gradients: Sequence[Tensor | None], *beside: Callable[[], object]) -> None:
        """Apply the banks' gradients, (n, rows, cols) fp32, if the norm's decision is to.

        A bank whose gradient is None stays.

        Args:
            gradients: of the banks.
            beside: launched meanwhile; what needs nothing of Muon's, and allocates nothing.
        """
        launch_beside(self.norm.decision.device, [*self.chains(gradients), *beside])

    def chains(self, gradients: Sequence[Tensor | None]) -> list[Callable[[], None]]:
        """What ``__call__`` does, cut where nothing has to wait: a chain of launches a batch.

        The longest first. All they share is what none of them writes; they allocate nothing.
        """
        live: dict[tuple[int, int], dict[int, Tensor]] = {}
        for place, gradient in enumerate(gradients):
            if gradient is not None and len(gradient):  # a rank may have no matrix of a bank
                live.setdefault(self._places[place][0], {})[place] = gradient
        longest_first = sorted(live, key=lambda shape: -self.batches[shape].products)
        return [partial(self._learn, shape, live[shape]) for shape in longest_first]

    def _learn(self, shape: tuple[int, int], gradients: Mapping[int, Tensor]) -> None:
        """Apply the gradients, by place, of banks that share a batch."""
        for place, gradient in gradients.items():
            self._prepare(place, gradient)
        updates = self.batches[shape].orthogonalise(self.coefficients)
        for place in gradients:
            self._apply(place, updates[self._places[place][1] :])

    def _prepare(self, place: int, gradient: Tensor) -> None:
        """Momentum of a bank, and its Nesterov step as matrices of its batch."""
        bank, (shape, first) = self.banks[place], self._places[place]
        batch = self.batches[shape]
        nesterov[bank.grid](
            gradient,
            bank.momentum,
            batch.matrices[first:],
            batch.squares[first:],
            self.norm.decision,
            self.levers.momentum,
            SQUARES=batch.squares.size(1),
            ROW_NORM=self.row_norm,
            **bank.tile,
            num_warps=WARPS,
        )

    def _apply(self, place: int, update: Tensor) -> None:
        """Decay and update a bank, and move its average towards it."""
        bank, levers = self.banks[place], self.levers
        _, rows, columns = bank.weight.shape
        apply_update[bank.grid](
            bank.weight,
            bank.average,
            update,
            levers.lr_scale,
            levers.decay_factor,
            levers.averaging_decay,
            self.norm.decision,
            self.statistics[place],
            self.rate,
            self.weight_decay,
            max(1.0, rows / columns) ** 0.5,
            self.least_step,
            **bank.tile,
            num_warps=WARPS,
        )


def launch_beside(device: torch.device, chains: Sequence[Callable[[], object]]) -> None:
    """Launch each chain on the lane that ``LANES`` has for it, and let the current stream wait."""
    lanes = [*LANES, *[None] * len(chains)][: len(chains)]
    with ExitStack() as joined:
        # First those that leave the current stream: they would wait for what it was given.
        for lane, chain in sorted(
            zip(lanes, chains, strict=True), key=lambda pair: pair[0] is None
        ):
            with joined.enter_context(Side(device, lane)).launches():
                chain()


def share_batches(
    banks: Sequence[Bank], dtype: torch.dtype
) -> tuple[dict[tuple[int, int], Batch], list[tuple[tuple[int, int], int]]]:
    """A batch for each shape (short, long) that has a matrix, and of each bank its shape and first
    matrix there."""
    members: dict[tuple[int, int], list[Bank]] = {}
    places = []
    for bank in banks:
        short, long = sorted(bank.weight.shape[1:])
        before = members.setdefault((short, long), [])
        places.append(((short, long), sum(len(other.weight) for other in before)))
        before.append(bank)
    batches = {
        shape: Batch(
            sum(len(bank.weight) for bank in sharing),
            *shape,
            max(bank.grid[0] for bank in sharing),
            dtype,
            banks[0].weight.device,
        )
        for shape, sharing in members.items()
        if any(len(bank.weight) for bank in sharing)
    }
    return batches, places


def row_tile(rows: int, columns: int) -> dict[str, Any]:
    """Shape of a bank's matrices, of the tile of whole rows that a program takes, batch's pitch."""
    padded = triton.next_power_of_2(columns)
    return {
        "ROWS": rows,
        "COLUMNS": columns,
        "PADDED": padded,
        "TILE": max(1, TILE // padded),
        "PITCH": pitch(max(rows, columns)),
    }


@triton.jit
def row_offsets(
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,
    TILE: tl.constexpr,
    PITCH: tl.constexpr,
):
    """This program's rows of matrix ``program_id(1)``: offsets in the bank, in the batch, mask.

    In the batch it lies wide, so tall matrices are turned; rows are PITCH apart there.
    """
    rows = (tl.program_id(0) * TILE + tl.arange(0, TILE))[:, None]
    columns = tl.arange(0, PADDED)[None, :]
    matrix = tl.program_id(1).to(tl.int64)
    offsets = matrix * (ROWS * COLUMNS) + rows * COLUMNS + columns
    if ROWS > COLUMNS:
        wide = matrix * (COLUMNS * PITCH) + columns * PITCH + rows
    else:
        wide = matrix * (ROWS * PITCH) + rows * PITCH + columns
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
    PITCH: tl.constexpr,
):
    """``momentum <- beta momentum + g``; matrices get ``g + beta momentum``; g is clipped.

    gradient and momentum (n, ROWS, COLUMNS) fp32, matrices (n, short, long) in the compute dtype,
    squares (n, SQUARES) fp32: of the matrices as rounded, a number a program. At the real size,
    banks of 25.95 M weights: 363 MB, 85 us at 4275 GB/s.
    """
    if tl.load(decision + APPLIED) > 0:
        offsets, wide, mask = row_offsets(ROWS, COLUMNS, PADDED, TILE, PITCH)
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
    PITCH: tl.constexpr,
):
    """``weight <- (1 - rate * decay) weight - rate * stretch * update``, and the average after it.

    weight and average (n, ROWS, COLUMNS) fp32, update (n, short, long) in the compute dtype,
    statistics (n * programs, 3). At the real size 467 MB, 109 us at 4275 GB/s; the int6 grid's
    divisions are 27 us of issue slots under them.
    """
    if tl.load(decision + APPLIED) > 0:
        offsets, wide, mask = row_offsets(ROWS, COLUMNS, PADDED, TILE, PITCH)
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
