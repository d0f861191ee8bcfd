"""Statistics of each group of parameters, summed from those that the optimizer's kernels wrote."""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.optimizer.gradient_norm import APPLIED, GradientNorm
from kernels.optimizer.multi_tensor import Addresses, tensor_at

REST = "rest"  # name of the group of all parameters that are no bank
FIELDS = ("gradient", "largest", "nonfinite", "update", "weight", "int6_error")
STATISTICS = 3  # of a program's step: squares of update, of new weight, of its int6 error
PARTIALS = 1_024  # of one iteration
WARPS = 4


class StepStatistics:
    """Sums of statistics over groups, in a fixed order.

    Attributes:
        values: (groups, 6) fp32, as ``FIELDS``. Of the gradient before the clip: sum of squares,
            largest finite magnitude, count of non-finite elements. Sums of squares of the change of
            the weights (0 if the step was skipped), of the weights, and of their int6 rounding
            error. The last two are those of the latest step that was applied.

    Args:
        norm: over the gradients of all groups.
        groups: indices of the parameters of each in ``norm``, and the statistics of its kernel,
            (any, 3) fp32.
    """

    def __init__(self, norm: GradientNorm, groups: Sequence[tuple[range, Tensor]]) -> None:
        device = norm.decision.device
        self.norm = norm
        self.values = torch.zeros(len(groups), len(FIELDS), device=device)
        self._steps = Addresses([statistics for _, statistics in groups], device)
        chunks = [norm.chunks_of(places) for places, _ in groups]
        ranges = [
            (of_norm.start, of_norm.stop, len(statistics))
            for of_norm, (_, statistics) in zip(chunks, groups, strict=True)
        ]
        self._ranges = torch.tensor(ranges, dtype=torch.int32, device=device)

    def __call__(self) -> Tensor:
        """Return ``values`` of the step that was just made."""
        add_statistics[(len(self.values),)](
            self.norm.statistics,
            self._steps.table,
            self._ranges,
            self.norm.decision,
            self.values,
            PARTIALS=PARTIALS,
            num_warps=WARPS,
        )
        return self.values


@triton.jit
def add_statistics(gradients, steps, ranges, decision, values, PARTIALS: tl.constexpr):
    """Sum the statistics of one group in each program.

    gradients (chunks, 3) fp32, steps (groups,) int64 table of (any, 3) fp32, ranges (groups, 3)
    int32: first and last row of gradients, and number of rows of steps; values (groups, 6).
    """
    group = tl.program_id(0)
    first, last = tl.load(ranges + 3 * group), tl.load(ranges + 3 * group + 1)
    count, step = tl.load(ranges + 3 * group + 2), tensor_at(steps, group, False)
    mine = values + 6 * group
    applied = tl.load(decision + APPLIED)
    tl.store(mine, column_sum(gradients, first, last, PARTIALS))
    tl.store(mine + 1, column_largest(gradients + 1, first, last, PARTIALS))
    tl.store(mine + 2, column_sum(gradients + 2, first, last, PARTIALS))
    tl.store(mine + 3, column_sum(step, 0, count, PARTIALS) * applied)
    tl.store(mine + 4, column_sum(step + 1, 0, count, PARTIALS))
    tl.store(mine + 5, column_sum(step + 2, 0, count, PARTIALS))


@triton.jit
def column_sum(rows, first, last, PARTIALS: tl.constexpr):
    """Return the sum of every third number, from row ``first`` to before ``last``."""
    total = tl.zeros((PARTIALS,), tl.float32)
    for start in range(first, last, PARTIALS):
        place = start + tl.arange(0, PARTIALS)
        total += tl.load(rows + 3 * place, mask=place < last, other=0.0)
    return tl.sum(total)


@triton.jit
def column_largest(rows, first, last, PARTIALS: tl.constexpr):
    """Return the largest of every third number, none of which is negative."""
    largest = tl.zeros((PARTIALS,), tl.float32)
    for start in range(first, last, PARTIALS):
        place = start + tl.arange(0, PARTIALS)
        largest = tl.maximum(largest, tl.load(rows + 3 * place, mask=place < last, other=0.0))
    return tl.max(largest)
