"""From token ids to the first hidden state, and back to the tables in the same bits every time.

The bigram part is a projected row of a small table, so all its rows are projected once and the
product is gathered: a position costs two rows of reading and one of writing.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.reduce import column_sums
from kernels.common.rows import (
    Launch,
    column_indices,
    load,
    row_indices,
    row_mean,
    row_tile,
    store,
    store_column_sums,
)
from kernels.common.streams import Side
from kernels.embed.lookup_keys import bigram_rows, lookup_keys
from kernels.embed.segment_sum import segment_sum

# Of ``kernels.common.streams``; also of a product of the bigram's gradients.
SORT_LANE: int | None = 0
FORWARD = Launch(rows=8, warps=4)
BACKWARD = Launch(rows=4, warps=4, programs=5 * 132)


def embed(
    tokens: Tensor,
    table: Tensor,
    smear_gate: Tensor,
    *,
    dtype: torch.dtype,
    eps: float,
    bos_id: int | None,
    bigram: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Compute ``kernels.embed.Embed``; the bits of the gradients are the same every time."""
    bigrams = bigram or (None, None, None)
    return Embed.apply(tokens, table, smear_gate, *bigrams, dtype, eps, bos_id)


class Embed(torch.autograd.Function):
    """Saves the tables and the ids, and nothing as long as the batch but those."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens,
        table,
        smear_gate,
        bigram_table,
        projection,
        bigram_scale,
        dtype,
        eps,
        bos_id,
    ):
        tokens, smear_gate = tokens.contiguous(), smear_gate.contiguous()
        copy, projected = table.to(dtype).contiguous(), None
        if bigram_table is not None:
            projected = F.linear(bigram_table.to(dtype), projection)
        ctx.save_for_backward(
            tokens, copy, smear_gate, projected, bigram_scale, bigram_table, projection
        )
        ctx.length, ctx.eps, ctx.bos_id = tokens.size(-1), eps, bos_id
        return launch_forward(tokens, copy, smear_gate, projected, bigram_scale, ctx)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        """A radix sort of few ids takes long and keeps few multiprocessors busy: it runs beside the
        kernel whose rows it gives an order to."""
        tokens, copy, smear_gate, projected, scale, bigram_table, projection = ctx.saved_tensors
        vocabulary = copy.size(0)
        keys, lookups = lookup_keys(
            tokens, vocabulary, None if projected is None else len(projected)
        )
        with Side(tokens.device, SORT_LANE) as side:
            with side.launches():
                lookups.sort(keys, tokens.numel())
            into_sum, grad_gate = launch_backward(
                gradients[0].contiguous(), keys, copy, smear_gate, projected, scale, ctx
            )
        sums = segment_sum(into_sum, lookups)
        grad_bigram = (None, None, None)
        if projected is not None:
            grad_bigram = bigram_gradients(sums[vocabulary:], bigram_table, projection, scale)
        return None, sums[:vocabulary], grad_gate, *grad_bigram, None, None, None


def constants(copy: Tensor, projected: Tensor | None, bos_id: int | None) -> dict[str, int | None]:
    """What both kernels are compiled for."""
    rows = None if projected is None else projected.size(0)
    return {"BIGRAM_ROWS": rows, "BOS": bos_id, **row_tile(copy.size(1))}


def launch_forward(tokens, copy, smear_gate, projected, bigram_scale, ctx: Any) -> Tensor:
    """The first hidden state, (B, T, C)."""
    x = torch.empty((*tokens.shape, copy.size(1)), dtype=copy.dtype, device=tokens.device)
    embed_forward[(triton.cdiv(tokens.numel(), FORWARD.rows),)](
        tokens,
        copy,
        projected,
        bigram_scale,
        smear_gate,
        x,
        tokens.numel(),
        ctx.length,
        ctx.eps,
        num_warps=FORWARD.warps,
        ROWS=FORWARD.rows,
        **constants(copy, projected, ctx.bos_id),
    )
    return x


def launch_backward(grad, keys, copy, smear_gate, projected, bigram_scale, ctx: Any):
    """The summed embedding's gradient (N, C), and the gate's."""
    width = copy.size(1)
    count = grad.numel() // width
    into_sum = torch.empty((count, width), dtype=grad.dtype, device=grad.device)
    programs = min(triton.cdiv(count, BACKWARD.rows), BACKWARD.programs)
    partial = torch.empty((1, programs, width), dtype=torch.float32, device=grad.device)
    embed_backward[(programs,)](
        keys,
        copy,
        projected,
        bigram_scale,
        smear_gate,
        grad,
        into_sum,
        partial,
        count,
        ctx.length,
        ctx.eps,
        num_warps=BACKWARD.warps,
        ROWS=BACKWARD.rows,
        VOCABULARY=copy.size(0),
        **constants(copy, projected, ctx.bos_id),
    )
    return into_sum, column_sums(partial)[0]


def bigram_gradients(sums, bigram_table, projection, scale):
    """Of bigram table, projection and scale, from the sums (rows, C) of the projected rows.

    With P = bigram_table @ projection.T, the scale's gradient <sums, P> is that of the unscaled
    projection times the projection: C x E numbers instead of rows x C.
    """
    projection_fp32 = projection.to(sums.dtype)
    with Side(sums.device, SORT_LANE) as side:
        # Of few blocks, each as long as the table has rows.
        into_projection = side.product(sums.T, bigram_table)
        into_table = sums @ (projection_fp32 * scale)
    return (
        into_table,
        (into_projection * scale).to(projection.dtype),
        (into_projection * projection_fp32).sum(),
    )


@triton.jit
def summed_embedding(table, projected, bigram_scale, ids, found, mask, columns, C: tl.constexpr):
    """Rows ``ids`` of the table + rows ``found`` of the bigrams' in fp32, zero where masked."""
    inside = mask & (columns < C)
    x = load(table, ids * C + columns, inside)
    if projected is not None:
        x += tl.load(bigram_scale) * load(projected, found * C + columns, inside)
    return x


@triton.jit
def embedding_of(
    tokens,
    table,
    projected,
    bigram_scale,
    positions,
    mask,
    columns,
    length,
    BIGRAM_ROWS: tl.constexpr,
    C: tl.constexpr,
):
    """``summed_embedding`` of positions."""
    ids = tl.load(tokens + positions, mask=mask, other=0).to(tl.int32)
    found = ids
    if projected is not None:
        found = bigram_rows(tokens, positions, mask, length, BIGRAM_ROWS)
    return summed_embedding(table, projected, bigram_scale, ids, found, mask, columns, C)


@triton.jit
def continues(tokens, positions, mask, length, BOS: tl.constexpr):
    """Whether SmearGate lets the previous position into this one."""
    inner = mask & (positions % length != 0)
    if BOS is not None:
        inner = inner & (tl.load(tokens + positions, mask=mask, other=0) != BOS)
    return inner


@triton.jit
def embed_forward(
    tokens,
    table,
    projected,
    bigram_scale,
    smear_gate,
    x,
    count,
    length,
    eps,
    BIGRAM_ROWS: tl.constexpr,
    BOS: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """``own + g (before - own)``, g = sigmoid(smear_gate), on normed rows of a tile of positions.

    ids (N,), table (V, C) and projected (rows, C) in x's dtype, smear_gate (C,) and bigram_scale ()
    fp32, x (N, C). The position before is looked up and normed again instead of carried along: its
    rows were just loaded for the neighbour in the same tile, so they come from the first cache.

    At the real size, N = 98304, C = 512, bf16: 101 MB written (24 us at 4275 GB/s), 201 MB gathered
    from tables of 3 MB that stay in the L2 cache, 60 FLOPs an element or 3 GFLOP. About 430
    instructions a row and warp are 46 us of all issue slots: that is the bound. 8 rows over 4
    warps: 93 registers, 5 programs a multiprocessor; 2 KB of shared memory for the gate's layout.
    """
    rows, columns = row_indices(tl.program_id(0) * ROWS, ROWS), column_indices(CHUNKS, CHUNK)
    positions = rows.to(tl.int32)  # remainders of 64 bits would cost more than the norm
    mask = positions < count
    own = embedding_of(
        tokens, table, projected, bigram_scale, positions, mask, columns, length, BIGRAM_ROWS, C
    )
    before = embedding_of(
        tokens,
        table,
        projected,
        bigram_scale,
        positions - 1,
        continues(tokens, positions, mask, length, BOS),
        columns,
        length,
        BIGRAM_ROWS,
        C,
    )
    own *= tl.rsqrt(row_mean(own * own, C) + eps)
    before *= tl.rsqrt(row_mean(before * before, C) + eps)
    gate = tl.sigmoid(load(smear_gate, columns, columns < C))
    store(x, rows * C + columns, own + gate * (before - own), mask & (columns < C))


@triton.jit
def embed_backward(
    keys,
    table,
    projected,
    bigram_scale,
    smear_gate,
    grad,
    into_sum,
    part_gate,
    count,
    length,
    eps,
    VOCABULARY: tl.constexpr,
    BIGRAM_ROWS: tl.constexpr,
    BOS: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Back through SmearGate and RMSNorm to the summed embedding.

        change   = grad[i + 1] - grad[i], with 0 for grad[i + 1] where SmearGate lets nothing on
        d_normed = grad[i] + g change
        d_x      = r (d_normed - normed mean(d_normed normed))
        d_gate   = g (1 - g) sum over i of normed[i] change[i]

    so that only a position's own row is looked up again. keys as ``lookup_keys_kernel`` wrote them,
    grad and into_sum (N, C), part_gate (programs, C) fp32.

    At the real size: 101 MB read, 101 MB written (47 us at 4275 GB/s), 101 MB read again as a
    neighbour's from the caches, 201 MB gathered from the L2 cache; 100 FLOPs an element, 5 GFLOP.
    A row a warp and turn: 96 registers, 5 programs a multiprocessor; 2 rows take 168 and leave 3,
    keys read a turn ahead 120 and leave 4.
    About 400 instructions a row and warp are 43 us. Shared memory: 8 KB for the sums over warps.
    """
    columns = column_indices(CHUNKS, CHUNK)
    inside = columns < C
    gate = tl.sigmoid(load(smear_gate, columns, inside))
    sum_gate = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        rows = row_indices(first, ROWS)
        positions, offsets = rows.to(tl.int32), rows * C + columns
        mask = positions < count
        followed = continues(keys, positions + 1, positions + 1 < count, length, BOS)
        own = load(grad, offsets, mask & inside)
        change = load(grad, offsets + C, followed & inside) - own
        ids = tl.load(keys + positions, mask=mask, other=0).to(tl.int32)
        found = ids
        if projected is not None:
            lookups = tl.load(keys + count + positions, mask=mask, other=VOCABULARY)
            found = lookups.to(tl.int32) - VOCABULARY
        x = summed_embedding(table, projected, bigram_scale, ids, found, mask, columns, C)
        inverse_rms = tl.rsqrt(row_mean(x * x, C) + eps)
        normed = x * inverse_rms
        sum_gate += normed * change
        into_normed = own + gate * change
        along = row_mean(into_normed * normed, C)
        store(into_sum, offsets, (into_normed - normed * along) * inverse_rms, mask & inside)
    store_column_sums(part_gate, sum_gate * gate * (1 - gate), C, CHUNKS, CHUNK)
