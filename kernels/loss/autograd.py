"""Output head, softcap and cross-entropy of the main and the multi-token-prediction heads.

    z = hidden @ head.T,  y = softcap tanh(z / softcap),  nats = log sum exp(y) - y[target]
    loss = sum over heads of share_h * sum(w nats) / sum(w),  w = target_weight[target]
    dz = share_h w / sum(w) (softmax(y) - onehot) (1 - tanh^2)

With further targets of the main head, these stand where heads stand: dz is the sum over them.

The gradient of z needs nothing later than the loss, so the forward pass computes it, as Liger's
fused cross-entropy does. It takes a chunk of rows and all heads together:

    z = hidden @ heads.T           cuBLAS, heads (HV, C) stacked
    z becomes dz in place          ``kernels.loss.cross_entropy``: one read, one write in bf16
    dhidden = dz @ heads           cuBLAS, whose sum includes the sum over heads
    dheads = dz.T @ hidden         cuBLAS, some partial sums a chunk

These are three products a head; recomputing z in the backward pass would take four.
``kernels.loss.chunks`` sets their order and streams.

The backward pass returns the gradients times the upstream gradient. If that is one, as in training
without accumulation, dhidden is not touched.
"""

# Pyright takes a launch for a call of the kernel.
# pyright: reportArgumentType=false, reportCallIssue=false
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.streams import Side
from kernels.loss.chunks import Chunks
from kernels.loss.cross_entropy import Batch, cross_entropy
from kernels.loss.reference import check_further
from kernels.operand import Operand, unscaled

SOFTMAX_LANE: int | None = 0  # of ``kernels.common.streams``

POSITIONS = 4096  # a program of ``weighted_sums_kernel``
ELEMENTS = 2048  # of an iteration of ``scale_kernel``, and a program of ``scaled_sum_kernel``
SCALE_PROGRAMS = 8 * 132


def loss(
    hidden: Tensor,
    head: Tensor | Operand,
    targets: Tensor,
    *,
    softcap: float,
    mtp_heads: Tensor | Operand | None = None,
    mtp_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    further_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute ``kernels.loss.Loss`` without whole logits in memory."""
    heads = unscaled(head)[None]
    if mtp_heads is None or mtp_weight is None:
        mtp_weight = None
    else:
        heads = torch.cat((heads, unscaled(mtp_heads)))
    if further_weights is not None:
        check_further(mtp_heads)
    learning = torch.is_grad_enabled() and (hidden.requires_grad or heads.requires_grad)
    weights = target_weight, further_weights
    return Loss.apply(hidden, heads, mtp_weight, targets, *weights, softcap, learning)


class Loss(torch.autograd.Function):
    """Save the gradients of hidden (101 MB at 98,304 x 512 in bf16) and of heads in parts (19 MB).

    A backward pass returns these tensors. A second one of a retained graph computes them again from
    the saved inputs.
    """

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        heads: Tensor,
        mtp_weight: Tensor | None,
        targets: Tensor,
        target_weight: Tensor | None,
        further_weights: Tensor | None,
        softcap: float,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        further = 0 if further_weights is None else further_weights.numel()
        batch = Batch(targets.contiguous(), target_weight, len(heads), further)
        means, chunks = Means.of(hidden, batch.means), Chunks.of(hidden, heads, learning)
        nats = hidden.new_empty(batch.means, targets.numel(), dtype=torch.float32)
        entropies = entropies_of(batch, nats, means.factors, softcap, learning)
        with Side(hidden.device, SOFTMAX_LANE) as softmax:
            with softmax.launches():
                means.begin(batch, mtp_weight, further_weights)
            chunks.run(softmax, entropies, partial(means.end, batch, nats))
        ctx.gradients = chunks.dhidden, chunks.dheads
        ctx.softcap = softcap
        by_weight = None if mtp_weight is None else means.further
        ctx.save_for_backward(hidden, heads, batch.targets, target_weight, means.factors, by_weight)
        main_nats = nats[0].view(targets.shape)
        ctx.mark_non_differentiable(main_nats)
        return means.loss, main_nats

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor, _) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, heads, targets, target_weight, factors, further = ctx.saved_tensors
        needs_hidden, needs_heads, needs_mtp_weight = ctx.needs_input_grad[:3]
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            gradients = gradients_again(hidden, heads, targets, target_weight, factors, ctx.softcap)
        dhidden, dheads = gradients
        return (
            scale_(dhidden, upstream).view(hidden.shape) if needs_hidden else None,
            scaled_sum(dheads, upstream).view(heads.shape) if needs_heads else None,
            upstream * further if needs_mtp_weight else None,
            *(None,) * 5,
        )


def entropies_of(
    batch: Batch, nats: Tensor, factors: Tensor, softcap: float, learning: bool
) -> Callable[[Tensor, int], None]:
    """Return ``cross_entropy`` as a function of a block's logits and its first position.

    It writes to nats (``batch.means``, N) fp32.
    """

    def entropies(logits: Tensor, first: int) -> None:
        cross_entropy(logits, first, nats, batch, factors, softcap, learning)

    return entropies


def gradients_again(
    hidden: Tensor,
    heads: Tensor,
    targets: Tensor,
    target_weight: Tensor | None,
    factors: Tensor,
    softcap: float,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of hidden, and of heads in parts, as the forward pass computed them."""
    batch = Batch(targets, target_weight, len(heads), factors.numel() - len(heads))
    chunks = Chunks.of(hidden, heads, True)
    nats = hidden.new_empty(batch.means, targets.numel(), dtype=torch.float32)
    with Side(hidden.device, SOFTMAX_LANE) as softmax:
        chunks.run(softmax, entropies_of(batch, nats, factors, softcap, True))
    return chunks.dhidden, chunks.dheads


@dataclass(frozen=True)
class Means:
    """Small numbers of a batch, fp32. Their dozen tiny launches overlap with the products.

    H is the number of heads, or of the targets that the main head predicts.
    """

    shares: Tensor  # (H,): weight of each head's mean in the loss
    weight_sums: Tensor  # (H,)
    factors: Tensor  # (H,): weight in the loss of a target of weight one
    loss: Tensor  # ()
    further: Tensor  # (): mean of the further heads' means, the loss's derivative in their weight

    @classmethod
    def of(cls, hidden: Tensor, heads: int) -> "Means":
        shapes = ((heads,), (heads,), (heads,), (), ())
        return cls(*(hidden.new_empty(shape, dtype=torch.float32) for shape in shapes))

    def begin(
        self, batch: Batch, mtp_weight: Tensor | None, further_weights: Tensor | None
    ) -> None:
        """Compute shares, sums of the weights and factors."""
        self.shares.fill_(1.0)
        if mtp_weight is not None:
            further = batch.heads - 1
            torch.div(mtp_weight.expand(further), further, out=self.shares[1:])
        if further_weights is not None:
            self.shares[1:].copy_(further_weights)
        weighted_sums(batch, None, self.weight_sums)
        torch.div(self.shares, self.weight_sums, out=self.factors)

    def end(self, batch: Batch, nats: Tensor) -> None:
        """Compute the loss, and the further heads' mean if there are any."""
        means = torch.empty_like(self.weight_sums)
        weighted_sums(batch, nats, means)
        means /= self.weight_sums
        torch.mean(means[1:], 0, out=self.further)
        torch.sum(self.shares * means, 0, out=self.loss)


def weighted_sums(batch: Batch, nats: Tensor | None, sums: Tensor) -> None:
    """Write sums of w, or of w * nats, over the positions that each head predicts, (H,) fp32."""
    positions, device = batch.targets.numel(), batch.targets.device
    blocks = -(-positions // POSITIONS)
    partial = torch.empty((batch.means, blocks), dtype=torch.float32, device=device)
    weighted_sums_kernel[(blocks, batch.means)](
        nats,
        batch.targets,
        batch.target_weight,
        partial,
        positions,
        batch.targets.size(1),
        POSITIONS=POSITIONS,
    )
    torch.sum(partial, 1, out=sums)


def scale_(x: Tensor, factor: Tensor) -> Tensor:
    """Scale x in place by factor () fp32, read on the device; one leaves x untouched."""
    scale_kernel[(SCALE_PROGRAMS,)](x, factor, x.numel(), BLOCK=ELEMENTS)
    return x


def scaled_sum(parts: Tensor, factor: Tensor) -> Tensor:
    """Return ``factor * parts.sum(0)``, rounded once; factor () fp32 is read on the device."""
    total = torch.empty_like(parts[0])
    scaled_sum_kernel[(-(-total.numel() // ELEMENTS),)](
        parts,
        factor,
        total,
        len(parts),
        total.numel(),
        BLOCK=ELEMENTS,
    )
    return total


@triton.jit
def weighted_sums_kernel(
    nats, targets, target_weight, partial, positions, time, POSITIONS: tl.constexpr
):
    """Write ``partial[h, i] = sum of w * nats[h]`` over block i of positions; of w without nats.

    All fp32; targets (B, T). 98,304 positions and 3 heads are 24 x 3 programs, one wave.
    """
    head = tl.program_id(1)
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    predicts = (position < positions) & (position % time + head < time)
    value = tl.where(predicts, 1.0, 0.0)
    if target_weight is not None:
        target = tl.load(targets + position + head, mask=predicts, other=0)
        value *= tl.load(target_weight + target, mask=predicts, other=0.0)
    if nats is not None:
        value *= tl.load(nats + head * positions + position, mask=predicts, other=0.0)
    tl.store(partial + head * tl.num_programs(0) + tl.program_id(0), tl.sum(value))


@triton.jit
def scale_kernel(x, factor, length, BLOCK: tl.constexpr):
    """Compute ``x *= factor`` in place, x (length,) in any dtype, factor () fp32.

    A power of two leaves x as exact as it was; any other factor rounds it again. A factor of one
    moves nothing.
    """
    value = tl.load(factor)
    if value != 1.0:
        for start in range(tl.program_id(0) * BLOCK, length, tl.num_programs(0) * BLOCK):
            place = start + tl.arange(0, BLOCK)
            there = place < length
            scaled = tl.load(x + place, mask=there).to(tl.float32) * value
            tl.store(x + place, scaled.to(x.dtype.element_ty), mask=there)


@triton.jit
def scaled_sum_kernel(parts, factor, total, count, length, BLOCK: tl.constexpr):
    """Write ``total = factor * sum over i of parts[i]``, parts (count, length), summed in fp32.

    16 elements a thread are two 16-byte loads.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float32)
    for _ in range(count):
        row = tl.load(parts + place, mask=place < length, other=0.0)
        sums += row.to(tl.float32)
        parts += length
    sums *= tl.load(factor)
    tl.store(total + place, sums.to(total.dtype.element_ty), mask=place < length)
