"""Softcap and cross-entropy of a block of logits, which become their own gradients where they lie.

    y    = softcap tanh(z / softcap)
    nats = log sum exp(y) - y[target]
    dz   = factor (exp(y) / sum exp(y) - onehot) (1 - tanh^2)

The softcap bounds y, so no maximum is taken out before the exponential; the target's own logit is
read, and its gradient written, by itself, so that no logit is compared with the target.
"""

# Pyright takes a launch for a call of the kernel, and knows nothing of what kernels return.
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false
import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOGITS_A_WARP = 1024  # 32 a thread
PROGRAMS = 11 * 128  # a head: of 3 heads, at one warp each, all that 132 multiprocessors hold
# Up to this softcap 2^16 terms exp(y) neither overflow nor vanish in fp32 as they are.
GREATEST_BOUND = 64.0
BITS_A_NAT = tl.constexpr(math.log2(math.e))


@dataclass(frozen=True)
class Batch:
    """What the heads are held to, and what each target counts."""

    targets: Tensor  # (B, T) contiguous
    target_weight: Tensor | None  # (V,) fp32
    heads: int


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
        nats: (H, BT) fp32, of which these rows' are written.
        batch: targets and their weights.
        factors: (H,) fp32, what a head's targets of weight one count in the loss.
        softcap: of the logits.
        learning: gradients too; in bf16 with an approximate tanh, as the kernel says.
    """
    vocabulary = logits.size(1) // batch.heads
    cross_entropy_kernel[(min(len(logits), PROGRAMS), batch.heads)](
        logits,
        batch.targets,
        batch.target_weight,
        factors,
        nats,
        first,
        len(logits),
        batch.targets.numel(),
        batch.targets.size(1),
        softcap,
        LEARNING=learning,
        APPROXIMATE=learning and logits.dtype == torch.bfloat16,
        BOUNDED=softcap <= GREATEST_BOUND,
        **entropy_tile(vocabulary),
    )


def entropy_tile(vocabulary: int) -> dict[str, Any]:
    """Constants and warps of ``cross_entropy_kernel``: a row is a program's."""
    padded = triton.next_power_of_2(vocabulary)
    warps = min(max(padded // LOGITS_A_WARP, 1), 32)
    return {"VOCABULARY": vocabulary, "PADDED": padded, "num_warps": warps}


@triton.jit
def cross_entropy_kernel(
    logits,
    targets,
    target_weight,
    factors,
    nats,
    first,
    rows,
    positions,
    time,
    softcap,
    VOCABULARY: tl.constexpr,
    PADDED: tl.constexpr,
    LEARNING: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Nats of one head for every ``num_programs``-th row; if LEARNING, z becomes dz in place.

    logits (rows, H, V) in the compute dtype, rows being positions ``first`` and following; targets
    (B, T) integers, head k's lying k further on; factors (H,), nats (H, BT) fp32. A position whose
    target lies outside its window gets dz = 0 and no nats.

    APPROXIMATE takes tanh from one special function, tanh.approx.f32, with a relative error of at
    most 2^-11, where rounding z to bf16 has made one of up to 2^-9. Whatever the signs of that
    error, a gradient's grows at most 1.15 times by it, and the loss is off by less than 1e-3. What
    scores must not be: without gradients, as in fp32, tanh is exact.

    At 98,304 positions and 3 heads of 1,024 in bf16: reads and writes 604 MB, 283 us on an H200
    unless the L2 cache still holds them. 67 special functions a row and lane are 151 us at 16 a
    clock, and 447 instructions 126. A row of 1,024 is one warp, 4 times 8 logits a lane: its sums
    are shuffles. 64 registers: 32 warps a multiprocessor have 64 KB of loads in flight.
    """
    head, heads = tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, PADDED)
    there = None if PADDED == VOCABULARY else column < VOCABULARY
    factor = tl.load(factors + head)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        position = first + row
        predicts = position % time + head < time
        # Read whether it counts or not, so that no load has to wait for the remainder.
        target = tl.load(targets + tl.minimum(position + head, positions - 1))
        start = logits + (row * heads + head) * VOCABULARY
        at_target = tl.load(start + target).to(tl.float32)
        weight = factor if target_weight is None else factor * tl.load(target_weight + target)
        z = tl.load(start + column, mask=there).to(tl.float32)

        y, slope = softcapped(z, softcap, APPROXIMATE)
        target_y, target_slope = softcapped(at_target, softcap, APPROXIMATE)
        if PADDED != VOCABULARY:
            y = tl.where(there, y, float("-inf"))
        if not BOUNDED:
            largest = tl.max(y)
            y, target_y = y - largest, target_y - largest
        chance = tl.exp2(y)
        total = tl.sum(chance)
        surprise = (tl.log2(total) - target_y) * (1.0 / BITS_A_NAT)
        tl.store(nats + head * positions + position, surprise, mask=predicts)
        if LEARNING:
            weight = tl.where(predicts, weight, 0.0)
            share = weight / total
            dz = chance * slope * share
            target_dz = (tl.exp2(target_y) * share - weight) * target_slope
            tl.debug_barrier()  # every thread has read the target's logit
            tl.store(start + column, dz.to(logits.dtype.element_ty), mask=there)
            tl.debug_barrier()  # the thread that holds the target has written it
            tl.store(start + target, target_dz.to(logits.dtype.element_ty))


@triton.jit
def softcapped(z, softcap, APPROXIMATE: tl.constexpr):
    """``y = softcap tanh(z / softcap)`` in bits, and dy / dz = 1 - tanh^2."""
    if APPROXIMATE:
        tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [z * (1.0 / softcap)], tl.float32, True, 1
        )
        slope = 1.0 - tanh * tanh
    else:
        decay = tl.exp2(tl.abs(z) * (-2.0 * BITS_A_NAT / softcap))
        inverse = 1.0 / (1.0 + decay)
        tanh = tl.where(z < 0, decay - 1.0, 1.0 - decay) * inverse
        slope = 4.0 * decay * inverse * inverse  # exact where tanh is near 1
    return tanh * (softcap * BITS_A_NAT), slope
