"""Muon of banks in few passes: momentum, orthogonalisation in batches, update and average.

    momentum <- beta momentum + gradient
    update    = orthogonalise(gradient + beta momentum) sqrt(max(1, rows / cols))
    weight   <- (1 - rate decay) weight - rate update,  then its average, then its lean

Banks are (n, rows, cols) fp32, the products' matrices in the compute dtype. Most of a batch's
products occupy one wave of multiprocessors or less, and the passes before and after them leave the
tensor cores idle. So each batch's launches have a separate stream and overlap with the others.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.streams import Side
from kernels.optimizer.gradient_norm import GradientNorm
from kernels.optimizer.muon_passes import (
    LAUNCH,
    RowMoments,
    Rule,
    WholeRows,
    apply_update,
    move_row_moments,
    nesterov,
    whole_rows,
)
from kernels.optimizer.newton_schulz import Batch, Coefficients
from kernels.optimizer.statistics import STATISTICS
from kernels.optimizer.step_levers import StepLevers
from kernels.quant.autograd import least_step

# Lanes of ``kernels.common.streams`` for the chains of launches, the longest first, and for AdamW.
# None is the current stream, which chains beyond the last lane use, too. A step on an H100, commit
# febceab: 993 us; all on one stream 1,098; the shorter chains on one lane 1,005; the longest on a
# lane 1,042.
LANES: tuple[int | None, ...] = (None, 0, 1, 2)


class Bank(NamedTuple):
    """(n, rows, cols) fp32, contiguous: weights, their momentum, and their average if any."""

    weight: Tensor
    momentum: Tensor
    average: Tensor | None
    second: Tensor | None = None
    """(n, rows, 1) fp32, second moments of the update's rows, if they scale it (NorMuon)."""

    @property
    def tile(self) -> WholeRows:
        """The tile of a program."""
        return whole_rows(*self.weight.shape[1:])

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles a matrix, matrices."""
        return math.ceil(self.weight.size(1) / self.tile.TILE.value), len(self.weight)


class FusedMuon:
    """Muon with a pass before and a pass after the Newton-Schulz products, over whole rows.

    Attributes:
        statistics: of each bank, (programs, 3) fp32: squares of the update, of the new weight, and
            of its rounding error on the int6 grid.

    Args:
        banks: to be updated.
        norm: whose decision is applied.
        levers: read in every step.
        coefficients: of each Newton-Schulz step.
        dtype: of its products.
        rates, decays: learning rate and decoupled weight decay of each bank, before the levers.
        row_norm: whether rows have length one before the orthogonalisation.
        min_step: floor of the int6 grid's step.
        beta2: decay a step of the banks' second moments.
        cautious: decay a weight only if its update has its sign.
    """

    def __init__(
        self,
        banks: Sequence[Bank],
        norm: GradientNorm,
        levers: StepLevers,
        *,
        coefficients: Coefficients,
        dtype: torch.dtype,
        rates: Sequence[float],
        decays: Sequence[float],
        row_norm: bool,
        min_step: float,
        beta2: float = 0.0,
        cautious: bool = False,
    ) -> None:
        self.banks, self.norm, self.levers = list(banks), norm, levers
        self.coefficients, self.rates, self.decays = coefficients, rates, decays
        self.row_norm, self.least_step = row_norm, least_step(min_step)
        self.beta2, self.cautious = beta2, cautious
        self.moments = [row_moments(bank) for bank in self.banks]
        self.statistics = [
            torch.zeros(math.prod(bank.grid), STATISTICS, device=bank.weight.device)
            for bank in self.banks
        ]
        self.batches, self._slots = share_batches(self.banks, dtype)

    def __call__(self, gradients: Sequence[Tensor | None], *others: Callable[[], object]) -> None:
        """Apply the banks' gradients, unless the norm's decision is to skip the step.

        Args:
            gradients: (n, rows, cols) fp32 of the banks; a bank whose gradient is None stays.
            others: launches that overlap with these; they read no results of Muon's, and allocate
                nothing.
        """
        launch_concurrently(self.norm.decision.device, [*self.chains(gradients), *others])

    def chains(self, gradients: Sequence[Tensor | None]) -> list[Callable[[], None]]:
        """Return a chain of launches for each batch, the longest first.

        Chains are independent: no chain writes what another reads. They allocate nothing.
        """
        live: dict[tuple[int, int], dict[int, Tensor]] = {}
        for index, gradient in enumerate(gradients):
            if gradient is not None and len(gradient):  # a rank may have no matrix of a bank
                live.setdefault(self._slots[index][0], {})[index] = gradient
        longest_first = sorted(live, key=lambda shape: -self.batches[shape].products)
        return [partial(self._step, shape, live[shape]) for shape in longest_first]

    def _step(self, shape: tuple[int, int], gradients: Mapping[int, Tensor]) -> None:
        """Apply the gradients, by index of the bank, of the banks of one batch."""
        for index, gradient in gradients.items():
            self._prepare(index, gradient)
        updates = self.batches[shape].orthogonalise(self.coefficients)
        for index in gradients:
            self._apply(index, updates[self._slots[index][1] :])

    def _prepare(self, index: int, gradient: Tensor) -> None:
        """Update a bank's momentum, and write its Nesterov step to its batch."""
        bank, (shape, first) = self.banks[index], self._slots[index]
        batch = self.batches[shape]
        nesterov[bank.grid](
            gradient,
            bank.momentum,
            batch.matrices[first:],
            batch.squares[first:],
            self.norm.decision,
            self.levers,
            bank.tile,
            SQUARES=batch.squares.size(1),
            ROW_NORM=self.row_norm,
            **LAUNCH.options,
        )

    def _apply(self, index: int, update: Tensor) -> None:
        """Decay and update a bank, and move its second moments, and its average towards it."""
        bank, (_, rows, columns) = self.banks[index], self.banks[index].weight.shape
        moments = self.moments[index]
        if moments is not None:
            move_row_moments[bank.grid](
                update, moments, self.norm.decision, 1 - self.beta2, bank.tile, **LAUNCH.options
            )
        stretch = max(1.0, rows / columns) ** 0.5
        apply_update[bank.grid](
            bank.weight,
            bank.average,
            update,
            self.levers,
            self.norm.decision,
            self.statistics[index],
            Rule(self.rates[index], self.decays[index], stretch, self.least_step),
            bank.tile,
            moments,
            CAUTIOUS=self.cautious,
            **LAUNCH.options,
        )


def row_moments(bank: Bank) -> RowMoments | None:
    """Return a bank's second moments and the buffer of their sums; None if it has none."""
    if bank.second is None:
        return None
    parts, count = bank.grid
    sums = torch.zeros(count, parts, 2, device=bank.second.device)
    padded = triton.next_power_of_2(parts)
    return RowMoments(bank.second, sums, tl.constexpr(parts), tl.constexpr(padded))


def launch_concurrently(device: torch.device, chains: Sequence[Callable[[], object]]) -> None:
    """Launch each chain on its lane of ``LANES``; the current stream then waits for all."""
    lanes = [*LANES, *[None] * len(chains)][: len(chains)]
    with ExitStack() as joined:
        # The current stream's chain is last, because side streams wait for its earlier launches.
        for lane, chain in sorted(
            zip(lanes, chains, strict=True), key=lambda pair: pair[0] is None
        ):
            with joined.enter_context(Side(device, lane)).launches():
                chain()


def share_batches(
    banks: Sequence[Bank], dtype: torch.dtype
) -> tuple[dict[tuple[int, int], Batch], list[tuple[tuple[int, int], int]]]:
    """Return a batch for each shape (short, long) that has a matrix, and each bank's slot.

    A slot is the shape of the bank's batch and the index of its first matrix there.
    """
    members: dict[tuple[int, int], list[Bank]] = {}
    slots = []
    for bank in banks:
        short, long = sorted(bank.weight.shape[1:])
        before = members.setdefault((short, long), [])
        slots.append(((short, long), sum(len(other.weight) for other in before)))
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
    return batches, slots
