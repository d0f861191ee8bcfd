"""Softcap and cross-entropy of a block of logits, whose gradients overwrite them.

    y    = softcap tanh(z / softcap)
    nats = log sum exp(y) - y[target]
    dz   = factor (exp(y) / sum exp(y) - onehot) (1 - tanh^2)

Logits z (rows, H V) are in the compute dtype, the rest is fp32. The softcap bounds y, so the
exponential needs no maximum. The target's logit is read, and its gradient written, separately, so
that no logit is compared with the target.
"""

# Pyright takes a launch for a call of the kernel, and cannot infer what kernels return.
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.launch import Launch
from kernels.common.math import LOG2_E

LOGITS_A_WARP = 1024  # 32 a thread
# Programs of one warp, each of one row at a time, as many as 132 multiprocessors hold; ``programs``
# divides them by heads and warps. Both directions on three streams, 3 heads, H100, commit 72db346.
LAUNCH = Launch(rows=1, programs=33 * 128)  # 1,726 us; half 1,763; three times as many 1,728
# A thread's, of ``further_entropy_kernel``, so that as many programs fit as of the other: without a
# limit 80 at 8,192 logits.
MOST_REGISTERS = 64
# Up to this softcap 2^16 terms exp(y) neither overflow nor underflow in fp32.
GREATEST_BOUND = 64.0


@dataclass(frozen=True)
class Batch:
    """The targets of all heads, and their weights."""

    targets: Tensor  # (B, T) contiguous
    target_weight: Tensor | None  # (V,) fp32
    heads: int
    further: int = 0  # targets that the main head predicts besides, if it is the only head

    @property
    def means(self) -> int:
        """Number of losses: of the heads, and of further targets."""
        return self.heads + self.further


class Targets(NamedTuple):
    """Targets of positions ``first`` to ``first + rows - 1``, for ``cross_entropy_kernel``."""

    targets: Any
    """(positions,) integers."""
    target_weight: Any
    """(V,) fp32; None: every target weighs one."""
    factors: Any
    """(H,) fp32."""
    first: Any
    rows: Any
    positions: Any
    """B T."""
    time: Any
    """T."""


def cross_entropy(
    logits: Tensor,
    first: int,
    nats: Tensor,
    batch: Batch,
    factors: Tensor,
    softcap: float,
    learning: bool,
) -> None:
    """Write the nats of some rows and, if ``learning``, turn their logits into gradients.

    Args:
        logits: (rows, H V) contiguous, all heads' of position ``first`` and those that follow.
        first: position of the first row, in the batch of B T.
        nats: (``batch.means``, BT) fp32, of which these rows' are written.
        batch: targets and their weights.
        factors: (``batch.means``,) fp32, weight in the loss of targets of weight one.
        softcap: of the logits.
        learning: compute gradients too; in bf16 with an approximate tanh.
    """
    vocabulary = logits.size(1) // batch.heads
    positions, time = batch.targets.numel(), batch.targets.size(1)
    sizes = (first, len(logits), positions, time)
    tile = entropy_tile(vocabulary)
    given = (
        logits,
        Targets(batch.targets, batch.target_weight, factors, *sizes),
        nats,
        softcap,
    )
    tile |= {"LEARNING": learning, "BOUNDED": softcap <= GREATEST_BOUND}
    tile |= {"APPROXIMATE": learning and logits.dtype == torch.bfloat16}
    grid = min(len(logits), programs(batch.heads * tile["num_warps"]))
    if batch.further:
        further_entropy_kernel[(grid,)](
            *given,
            COUNT=batch.means,
            PADDED_COUNT=triton.next_power_of_2(batch.means),
            maxnreg=MOST_REGISTERS,
            **tile,
        )
    else:
        cross_entropy_kernel[(grid, batch.heads)](*given, **tile)


def programs(warps: int) -> int:
    """Return how many programs run at once, each of so many warps over all heads."""
    return max(1, LAUNCH.programs // warps)


def entropy_tile(vocabulary: int) -> dict[str, Any]:
    """Return constants and warps of ``cross_entropy_kernel``; a program has whole rows."""
    padded = triton.next_power_of_2(vocabulary)
    warps = min(max(padded // LOGITS_A_WARP, 1), 32)
    return {"VOCABULARY": vocabulary, "PADDED": padded, "num_warps": warps}


@triton.jit
def cross_entropy_kernel(
    logits,
    batch,
    nats,
    softcap,
    VOCABULARY: tl.constexpr,
    PADDED: tl.constexpr,
    LEARNING: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Write one head's nats of every ``num_programs``-th row; if LEARNING, z becomes dz in place.

    logits (rows, H, V) in the compute dtype, batch ``Targets``, nats (H, B T) fp32. The target of
    head k is k positions further on; a position whose target is outside its window gets dz = 0 and
    no nats.

    APPROXIMATE takes tanh from one special function, tanh.approx.f32, whose relative error is at
    most 2^-11. Rounding z to bf16 has an error of up to 2^-9. It increases a gradient's error at
    most 1.15 times, and changes the loss by less than 1e-3. Scores must be exact, so without
    gradients, and in fp32, tanh is exact.

    98,304 positions and 3 heads of 1,024 in bf16 are 604 MB to read and to write, in the L2 cache
    or not. A row and lane take 67 special functions and 447 instructions. A row of 1,024 is one
    warp, 4 times 8 logits a lane, so its sums are shuffles. With 64 registers, 32 warps a
    multiprocessor have 64 KB of loads in flight.
    """
    head, heads = tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, PADDED)
    there = None if PADDED == VOCABULARY else column < VOCABULARY
    factor = tl.load(batch.factors + head)
    for row in range(tl.program_id(0), batch.rows, tl.num_programs(0)):
        position = batch.first + row
        predicts = position % batch.time + head < batch.time
        # Loaded unconditionally, so that no load waits for the remainder.
        target = tl.load(batch.targets + tl.minimum(position + head, batch.positions - 1))
        start = logits + (row * heads + head) * VOCABULARY
        at_target = tl.load(start + target).to(tl.float32)
        weight = factor
        if batch.target_weight is not None:
            weight *= tl.load(batch.target_weight + target)
        z = tl.load(start + column, mask=there).to(tl.float32)

        exponential, slope, target_y, target_slope = exponentials(
            z, at_target, there, softcap, APPROXIMATE, BOUNDED
        )
        total = tl.sum(exponential)
        target_nats = (tl.log2(total) - target_y) * (1.0 / LOG2_E)
        tl.store(nats + head * batch.positions + position, target_nats, mask=predicts)
        if LEARNING:
            weight = tl.where(predicts, weight, 0.0)
            normalised = weight / total
            dz = exponential * slope * normalised
            target_dz = (tl.exp2(target_y) * normalised - weight) * target_slope
            tl.debug_barrier()  # every thread has read the target's logit
            tl.store(start + column, dz.to(logits.dtype.element_ty), mask=there)
            tl.debug_barrier()  # the thread that holds the target has written it
            tl.store(start + target, target_dz.to(logits.dtype.element_ty))


@triton.jit
def further_entropy_kernel(
    logits,
    batch,
    nats,
    softcap,
    VOCABULARY: tl.constexpr,
    PADDED: tl.constexpr,
    LEARNING: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    BOUNDED: tl.constexpr,
    COUNT: tl.constexpr,
    PADDED_COUNT: tl.constexpr,
):
    """Compute ``cross_entropy_kernel`` of one head that predicts COUNT targets from each row.

        dz = (sum of weights softmax(y) - sum of weight_k onehot_k) (1 - tanh^2)

    nats (COUNT, B T). The logits travel as for one target; a further one adds a few numbers. If two
    targets are equal, each writes the gradient of both.
    """
    column = tl.arange(0, PADDED)
    there = None if PADDED == VOCABULARY else column < VOCABULARY
    ahead = tl.arange(0, PADDED_COUNT)
    counts = ahead < COUNT
    factors = tl.load(batch.factors + ahead, mask=counts, other=0.0)
    for row in range(tl.program_id(0), batch.rows, tl.num_programs(0)):
        position = batch.first + row
        predicts = (position % batch.time + ahead < batch.time) & counts
        target = tl.load(batch.targets + tl.minimum(position + ahead, batch.positions - 1))
        start = logits + row * VOCABULARY
        at_target = tl.load(start + target).to(tl.float32)
        weight = factors
        if batch.target_weight is not None:
            weight *= tl.load(batch.target_weight + target)
        weight = tl.where(predicts, weight, 0.0)
        z = tl.load(start + column, mask=there).to(tl.float32)

        exponential, slope, target_y, target_slope = exponentials(
            z, at_target, there, softcap, APPROXIMATE, BOUNDED
        )
        total = tl.sum(exponential)
        target_nats = (tl.log2(total) - target_y) * (1.0 / LOG2_E)
        tl.store(nats + ahead * batch.positions + position, target_nats, mask=predicts)
        if LEARNING:
            normalised = tl.sum(weight) / total
            dz = exponential * slope * normalised
            same = target[:, None] == target[None, :]
            of_target = tl.sum(tl.where(same, weight[None, :], 0.0), axis=1)
            target_dz = (tl.exp2(target_y) * normalised - of_target) * target_slope
            tl.debug_barrier()  # every thread has read the targets' logits
            tl.store(start + column, dz.to(logits.dtype.element_ty), mask=there)
            tl.debug_barrier()  # the threads that hold the targets have written them
            tl.store(start + target, target_dz.to(logits.dtype.element_ty), mask=counts)


@triton.jit
def exponentials(z, at_target, there, softcap, APPROXIMATE: tl.constexpr, BOUNDED: tl.constexpr):
    """Return softmax's exponentials of a row, their slopes, and y and slope at the targets.

    Logits outside of ``there`` (None: none are) count nothing. Unless they are bounded, the row's
    largest is taken off, at the targets too.
    """
    y, slope = softcapped(z, softcap, APPROXIMATE)
    target_y, target_slope = softcapped(at_target, softcap, APPROXIMATE)
    if there is not None:
        y = tl.where(there, y, float("-inf"))
    if not BOUNDED:
        largest = tl.max(y)
        y, target_y = y - largest, target_y - largest
    return tl.exp2(y), slope, target_y, target_slope


@triton.jit
def softcapped(z, softcap, APPROXIMATE: tl.constexpr):
    """Return ``y = softcap tanh(z / softcap)`` in bits, and dy / dz = 1 - tanh^2."""
    if APPROXIMATE:
        tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [z * (1.0 / softcap)], tl.float32, True, 1
        )
        slope = 1.0 - tanh * tanh
    else:
        decay = tl.exp2(tl.abs(z) * (-2.0 * LOG2_E / softcap))
        inverse = 1.0 / (1.0 + decay)
        tanh = tl.where(z < 0, decay - 1.0, 1.0 - decay) * inverse
        slope = 4.0 * decay * inverse * inverse  # exact where tanh is near 1
    return tanh * (softcap * LOG2_E), slope
