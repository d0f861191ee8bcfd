"""The global gradient norm, the clip coefficient, and whether the step is applied."""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.optimizer.multi_tensor import Addresses, chunk_at, chunk_map, size_at, sizes, tensor_at
from kernels.optimizer.step_levers import StepLevers

CHUNK = 16_384  # elements of a program
BLOCK = 4_096  # elements of one iteration: 32 a thread
PARTIALS = 1_024  # of one iteration of the program that adds them
WARPS = 4
STATISTICS = tl.constexpr(3)  # of a chunk: sum of squares, largest magnitude, non-finite count
# Indices in ``decision``.
NORM, COEFFICIENT, APPLIED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


class GradientNorm:
    """The norm over all gradients, summed in a fixed order, and the decision about the step.

    Attributes:
        parameters: the parameters of the gradients.
        gradients: their addresses; ``update`` it before a call if gradients may have moved.
        chunks: (chunks, 2) int32, of parameters in order.
        statistics: (chunks, 3) fp32 of the gradients before the clip: sum of squares, largest
            finite magnitude, count of non-finite elements.
        decision: (3,) fp32: the norm, the clip coefficient, and 1 if the step is applied, 0 if the
            norm is not finite, or above its lever.
        counts: (2,) int32: steps applied, steps skipped.

    Args:
        parameters: whose gradients, fp32 and contiguous, are counted, of those that have one.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        device = parameters[0].device
        self.parameters = list(parameters)
        self.gradients = Addresses([None] * len(parameters), device)
        self.sizes = sizes(parameters, device)
        self.chunks = chunk_map(parameters, range(len(parameters)), CHUNK, device)
        self.statistics = torch.empty(len(self.chunks), STATISTICS.value, device=device)
        self.decision = torch.zeros(3, device=device)
        self.counts = torch.zeros(2, dtype=torch.int32, device=device)

    def chunks_of(self, parameters: range) -> range:
        """Return the indices in ``chunks`` of consecutive parameters."""
        counts = (triton.cdiv(parameter.numel(), CHUNK) for parameter in self.parameters)
        ends = list(accumulate(counts, initial=0))
        return range(ends[parameters.start], ends[parameters.stop])

    def __call__(self, levers: StepLevers) -> None:
        """Measure the gradients, and decide by the levers ``clip`` and ``skip_norm``."""
        self.measure()
        self.decide(levers)

    def measure(self) -> None:
        """Fill ``statistics``."""
        gradient_statistics[(len(self.chunks),)](
            self.gradients.table,
            self.sizes,
            self.chunks,
            self.statistics,
            CHUNK=CHUNK,
            BLOCK=BLOCK,
            ALIGNED=self.gradients.aligned,
            num_warps=WARPS,
        )

    def decide(self, levers: StepLevers) -> None:
        """Decide by ``statistics``, to which other ranks may have added theirs."""
        decide[(1,)](
            self.statistics,
            levers.clip,
            levers.skip_norm,
            self.decision,
            self.counts,
            len(self.chunks),
            PARTIALS,
            num_warps=WARPS,
        )


@triton.jit
def gradient_statistics(
    addresses,
    sizes,
    chunks,
    statistics,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Write each chunk's sum of squares, largest finite magnitude and non-finite count.

    addresses (tensors,) int64, sizes (tensors,) int32, chunks (programs, 2) int32, statistics
    (programs, 3) fp32. 28.0 M gradients are 112 MB.
    """
    program = tl.program_id(0)
    tensor, first = chunk_at(chunks, program)
    gradient, size = tensor_at(addresses, tensor, ALIGNED), size_at(addresses, sizes, tensor)
    mine = statistics + 3 * program
    # Only a tensor's last chunk has a mask, because a mask of unknown length would cut every load
    # into single elements.
    if first + CHUNK <= size:
        store_statistics(mine, gradient + first, CHUNK, CHUNK, BLOCK)
    else:
        store_statistics(mine, gradient + first, size - first, CHUNK, BLOCK)


@triton.jit
def store_statistics(statistics, gradient, size, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Write the statistics of ``size`` elements, at most CHUNK."""
    squares = tl.zeros((BLOCK,), tl.float32)
    largest = tl.zeros((BLOCK,), tl.float32)
    wrong = tl.zeros((BLOCK,), tl.float32)
    for start in tl.static_range(0, CHUNK, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        value = tl.load(gradient + offsets, mask=offsets < size, other=0.0)
        magnitude = tl.abs(value)
        finite = magnitude < float("inf")
        squares += value * value
        largest = tl.maximum(largest, tl.where(finite, magnitude, 0.0))
        wrong += tl.where(finite, 0.0, 1.0)
    tl.store(statistics, tl.sum(squares))
    tl.store(statistics + 1, tl.max(largest))
    tl.store(statistics + 2, tl.sum(wrong))


@triton.jit
def decide(statistics, clip, skip_norm, decision, counts, count, PARTIALS: tl.constexpr):
    """Write norm, clip coefficient ``min(1, clip / (norm + 1e-6))`` and whether to apply; count it.

    statistics (count, 3) fp32, clip and skip_norm () fp32, decision (3,) fp32, counts (2,) int32.
    One program adds 1,719 sums for preset ``seed``.
    """
    squares = tl.zeros((PARTIALS,), tl.float32)
    for start in range(0, count, PARTIALS):
        chunk = start + tl.arange(0, PARTIALS)
        squares += tl.load(statistics + 3 * chunk, mask=chunk < count, other=0.0)
    norm = tl.sqrt_rn(tl.sum(squares))
    most = tl.load(clip)
    coefficient = tl.where(most > 0, tl.minimum(tl.div_rn(most, norm + 1e-6), 1.0), 1.0)
    applied = (norm < float("inf")) & (norm <= tl.load(skip_norm))
    tl.store(decision + NORM, norm)
    tl.store(decision + COEFFICIENT, coefficient)
    tl.store(decision + APPLIED, applied.to(tl.float32))
    tl.store(counts, tl.load(counts) + applied.to(tl.int32))
    tl.store(counts + 1, tl.load(counts + 1) + 1 - applied.to(tl.int32))
