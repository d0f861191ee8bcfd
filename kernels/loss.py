"""Output head, softcap and cross-entropy of the main and the multi-token-prediction heads.

    z = hidden @ head.T,  y = softcap tanh(z / softcap),  nats = log sum exp(y) - y[target]
    loss = sum over heads of share_h * sum(w nats) / sum(w),  w = target_weight[target]
    dz = share_h w / sum(w) (softmax(y) - onehot) (1 - tanh^2)

The gradient in z needs nothing from later than the loss, so the forward pass computes it at once,
as Liger's fused cross-entropy does, for a chunk of rows and all heads together:

    z = hidden @ heads.T           cuBLAS, heads (HV, C) one below the other
    z becomes dz where it lies     Triton: one read, one write of the chunk in bf16
    dhidden = dz @ heads           cuBLAS: the sum over heads is part of the product's
    dheads = dz.T @ hidden         cuBLAS, one partial sum a chunk

The backward pass multiplies both by the upstream gradient. That is three products a head instead of
the four that recomputing z in the backward pass takes, and 0.1 GB of logits in all instead of 0.2 a
head. A product with the softmax in its epilogue would save a write and a read of z (280 us for
three heads), but its 4 special functions a logit (320 us) would not hide behind its tensor cores.
"""

# Pyright takes a launch for a call of the kernel.
# pyright: reportArgumentType=false, reportCallIssue=false
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits a chunk: 100 MB in bf16, 16,384 rows of 3 heads of 1,024.
CHUNK_LOGITS = 3 * 2**24
ROW_MULTIPLE = 128  # a chunk is whole tiles of cuBLAS's products


LOGITS_A_WARP = 1024  # of ``cross_entropy_kernel``: 32 a thread
POSITIONS = 4096  # a program of ``weighted_sums_kernel``
ELEMENTS = 2048  # a program of ``scaled_sum_kernel``


def loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    softcap: float,
    mtp_heads: Tensor | None = None,
    mtp_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean loss of the batch, and each token's nats of the main head.

    Arguments and result as ``kernels.reference.loss``; ``target_weight`` gets no gradient.
    """
    heads = head[None]
    if mtp_heads is None or mtp_weight is None:
        mtp_weight = None
    else:
        heads = torch.cat((heads, mtp_heads))
    learning = torch.is_grad_enabled() and (hidden.requires_grad or heads.requires_grad)
    return Loss.apply(hidden, heads, mtp_weight, targets, target_weight, softcap, learning)


class Loss(torch.autograd.Function):
    """Saves the gradients of hidden (101 MB at the real size) and, by chunk, of heads (19 MB)."""

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        heads: Tensor,
        mtp_weight: Tensor | None,
        targets: Tensor,
        target_weight: Tensor | None,
        softcap: float,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        batch = Batch(targets.contiguous(), target_weight, mtp_weight, len(heads))
        hidden_NC = hidden.reshape(-1, hidden.size(-1))
        weight_sums = weighted_sums(batch, None)
        nats, dhidden, dheads = entropies(hidden_NC, heads, batch, weight_sums, softcap, learning)
        means = weighted_sums(batch, nats) / weight_sums
        total, further = means[0], None
        if mtp_weight is not None:
            further = means[1:].mean()
            total = total + mtp_weight * further
        ctx.shapes = hidden.shape, heads.shape
        ctx.save_for_backward(dhidden, dheads, further)
        main_nats = nats[0].view(targets.shape)
        ctx.mark_non_differentiable(main_nats)
        return total, main_nats

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor, _) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        dhidden, dheads, further = ctx.saved_tensors
        needs_hidden, needs_heads, needs_mtp_weight = ctx.needs_input_grad[:3]
        hidden_shape, heads_shape = ctx.shapes
        return (
            scaled_sum(dhidden[None], upstream).view(hidden_shape) if needs_hidden else None,
            scaled_sum(dheads, upstream).view(heads_shape) if needs_heads else None,
            upstream * further if needs_mtp_weight else None,
            *(None,) * 4,
        )


@dataclass(frozen=True)
class Batch:
    """What the heads are held to, and what each target counts."""

    targets: Tensor  # (B, T) contiguous
    target_weight: Tensor | None  # (V,) fp32
    mtp_weight: Tensor | None  # () fp32; None with one head
    heads: int


def entropies(
    hidden: Tensor,
    heads: Tensor,
    batch: Batch,
    weight_sums: Tensor,
    softcap: float,
    learning: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Nats (H, N) of hidden (N, C) and heads (H, V, C); if ``learning``, the loss's gradient in
    hidden, and of each chunk of rows in heads (chunks, HV, C)."""
    stacked = heads.flatten(0, 1)
    rows = chunk_rows(len(hidden), len(stacked))
    starts = range(0, len(hidden), rows)
    buffer = hidden.new_empty(rows, len(stacked))
    nats = hidden.new_empty(len(heads), len(hidden), dtype=torch.float32)
    dhidden = hidden.new_empty(hidden.shape) if learning else None
    dheads = hidden.new_empty(len(starts), *stacked.shape) if learning else None
    for chunk, first in enumerate(starts):
        part = hidden[first : first + rows]
        logits = torch.mm(part, stacked.T, out=buffer[: len(part)])
        cross_entropy(logits, first, nats, batch, weight_sums, softcap, learning)
        if dhidden is not None and dheads is not None:
            torch.mm(logits, stacked, out=dhidden[first : first + rows])
            torch.mm(logits.T, part, out=dheads[chunk])
    return nats, dhidden, dheads


def chunk_rows(rows: int, vocabularies: int) -> int:
    """Rows a chunk, such that it holds about ``CHUNK_LOGITS``."""
    whole = CHUNK_LOGITS // vocabularies // ROW_MULTIPLE * ROW_MULTIPLE
    return min(rows, max(whole, ROW_MULTIPLE))


def cross_entropy(
    logits: Tensor,
    first: int,
    nats: Tensor,
    batch: Batch,
    weight_sums: Tensor,
    softcap: float,
    learning: bool,
) -> None:
    """Write nats of the rows from ``first`` on, and turn their logits into gradients."""
    vocabulary = logits.size(1) // batch.heads
    tile = entropy_tile(vocabulary)
    cross_entropy_kernel[(-(-len(logits) // tile["ROWS"]), batch.heads)](
        logits,
        batch.targets,
        batch.target_weight,
        weight_sums,
        batch.mtp_weight,
        nats,
        first,
        len(logits),
        batch.targets.numel(),
        batch.targets.size(1),
        softcap,
        LEARNING=learning,
        **tile,
    )


def entropy_tile(vocabulary: int) -> dict[str, Any]:
    """Constants and warps of ``cross_entropy_kernel``: whole rows, one at least."""
    padded = triton.next_power_of_2(vocabulary)
    return {
        "VOCABULARY": vocabulary,
        "ROWS": max(LOGITS_A_WARP // padded, 1),
        "CHUNKS": max(padded // 256, 1),
        "CHUNK": min(padded, 256),
        "num_warps": min(max(padded // LOGITS_A_WARP, 1), 32),
    }


def weighted_sums(batch: Batch, nats: Tensor | None) -> Tensor:
    """(H,) fp32: sums of w, or of w * nats, over the positions that each head predicts."""
    positions, device = batch.targets.numel(), batch.targets.device
    blocks = -(-positions // POSITIONS)
    partial = torch.empty((batch.heads, blocks), dtype=torch.float32, device=device)
    weighted_sums_kernel[(blocks, batch.heads)](
        nats,
        batch.targets,
        batch.target_weight,
        partial,
        positions,
        batch.targets.size(1),
        POSITIONS=POSITIONS,
    )
    return partial.sum(1)


def scaled_sum(parts: Tensor, factor: Tensor) -> Tensor:
    """``factor * parts.sum(0)``, rounded once; factor () fp32 is read on the device."""
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
def cross_entropy_kernel(
    logits,
    targets,
    target_weight,
    weight_sums,
    mtp_weight,
    nats,
    first,
    rows,
    positions,
    time,
    softcap,
    VOCABULARY: tl.constexpr,
    LEARNING: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Nats of one head for a few rows; if LEARNING, their logits z become dz in place.

        y    = softcap tanh(z / softcap)
        nats = log sum exp(y) - y[target]
        dz   = factor (exp(y) / sum exp(y) - onehot) (1 - tanh^2)

    logits (rows, H, V) in the compute dtype, rows being positions ``first`` and following; targets
    (B, T) integers, head k's lying k further on; weight_sums (H,), nats (H, BT) fp32. A position
    whose target lies outside its window gets dz = 0 and no nats.

    At 98,304 positions and 3 heads of 1,024 in bf16: reads and writes 604 MB, 283 us on an H200 if
    none of it is still in L2; 3 special functions a logit (2 exp, 1 reciprocal) are 240 us. A row
    of 1,024 is one warp, 4 times 8 logits a lane: its sums are shuffles, no shared memory or
    barrier. At 128 registers 16 warps share an SM and have 32 KB of loads in flight; 4 rows and 4
    warps a program take 150 registers, 12 warps.
    """
    head = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None, None]
    column = tl.arange(0, CHUNKS)[None, :, None] * CHUNK + tl.arange(0, CHUNK)[None, None, :]
    position = first + row
    predicts = (row < rows) & (position % time + head < time)
    target = tl.load(targets + position + head, mask=predicts, other=0)
    place = logits + (row * tl.num_programs(1) + head) * VOCABULARY + column
    there = (row < rows) & (column < VOCABULARY)

    z = tl.load(place, mask=there, other=0.0).to(tl.float32)
    decay = tl.exp(tl.abs(z) * (-2.0 / softcap))
    inverse = 1.0 / (1.0 + decay)
    tanh = tl.where(z < 0, decay - 1.0, 1.0 - decay) * inverse
    y = tl.where(column < VOCABULARY, softcap * tanh, float("-inf"))
    largest = along_row(y, tl.max)
    chance = tl.exp(y - largest)
    total = along_row(chance, tl.sum)
    hit = column == target
    surprise = tl.log(total) + largest - along_row(tl.where(hit, y, 0.0), tl.sum)
    tl.store(nats + head * positions + position, surprise, mask=predicts)
    if LEARNING:
        factor = 1.0 / tl.load(weight_sums + head)
        if mtp_weight is not None:
            share = tl.load(mtp_weight) / (tl.num_programs(1) - 1)
            factor *= tl.where(head == 0, 1.0, share)
        if target_weight is not None:
            factor *= tl.load(target_weight + target, mask=predicts, other=0.0)
        factor = tl.where(predicts, factor, 0.0)
        slope = 4.0 * decay * inverse * inverse  # 1 - tanh^2, exact where tanh is near 1
        dz = (chance * (factor / total) - tl.where(hit, factor, 0.0)) * slope
        tl.store(place, dz.to(logits.dtype.element_ty), mask=there)


@triton.jit
def along_row(tile, reduce: tl.constexpr):
    """(ROWS, CHUNKS, CHUNK) -> (ROWS, 1, 1), chunks first: those of a row share their lanes."""
    return reduce(reduce(tile, axis=1, keep_dims=True), axis=2, keep_dims=True)


@triton.jit
def weighted_sums_kernel(
    nats, targets, target_weight, partial, positions, time, POSITIONS: tl.constexpr
):
    """``partial[h, i] = sum of w * nats[h]`` over block i of positions; of w where nats is None.

    All fp32; targets (B, T). At 98,304 positions and 3 heads 2.4 MB, most of it in L2: 24 x 3
    programs, one wave, about 4 us.
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
def scaled_sum_kernel(parts, factor, total, count, length, BLOCK: tl.constexpr):
    """``total = factor * sum over i of parts[i]``, parts (count, length), summed in fp32.

    For dhidden, 98,304 x 512 in bf16 and one part: 201 MB, 47 us on an H200; for 6 parts of dheads
    22 MB. 16 elements a thread are two 16-byte loads.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float32)
    for _ in range(count):
        row = tl.load(parts + place, mask=place < length, other=0.0)
        sums += row.to(tl.float32)
        parts += length
    sums *= tl.load(factor)
    tl.store(total + place, sums.to(total.dtype.element_ty), mask=place < length)
