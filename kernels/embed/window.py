"""The embedding with SmearGate before the norm: one gate a position, from its first W channels.

    x_i   = table[t_i] + bigram,  s_i = sigmoid(smear_gate . x_i[:W])
    value = x_i + scale s_i x_{i-1},  out = value / sqrt(mean(value^2) + eps)

Nothing enters a document. Tensors are those of ``kernels.embed.forward`` and ``backward``.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.launch import Launch
from kernels.common.reduce import column_sums
from kernels.common.rows import (
    column_indices,
    load,
    row_indices,
    row_mean,
    row_tile,
    store,
    store_column_sums,
    zeros,
)
from kernels.embed.forward import (
    Tables,
    Text,
    continues,
    embedding_of,
    keyed_rows,
    summed_embedding,
)
from kernels.norm.norm import normed_gradient

# Compiled, not timed.
LAUNCH = {
    "forward": Launch(rows=8, warps=4),  # 80 registers, 6 programs a multiprocessor
    "backward": Launch(rows=4, warps=4, programs=4 * 132),  # 128 registers, 4 programs
}


def launch_window_forward(text: Text, tables: Tables, scale: Tensor, eps: float) -> Tensor:
    """Return the first hidden state, (B, T, C) in the tables' dtype."""
    launch, width = LAUNCH["forward"], tables.table.size(1)
    shape = (text.count // text.length, text.length, width)
    x = torch.empty(shape, dtype=tables.table.dtype, device=text.ids.device)
    embed_window_forward[(triton.cdiv(text.count, launch.rows),)](
        text,
        tables,
        scale,
        x,
        eps,
        row_tile(width, launch.rows),
        WINDOW=tables.smear_gate.numel(),
        **launch.options,
    )
    return x


def launch_window_backward(
    grad: Tensor, text: Text, tables: Tables, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of the summed embedding (N, C), of the gate (W,) and of the scale ().

    Args:
        grad: (B, T, C) contiguous.
        text: whose ids are keys, as ``lookup_keys`` returns them.
        tables: as in the forward pass.
        scale: () fp32.
        eps: of the RMSNorm.
    """
    vocabulary, width = tables.table.shape
    launch, window = LAUNCH["backward"], tables.smear_gate.numel()
    into_sum = torch.empty((text.count, width), dtype=grad.dtype, device=grad.device)
    programs = min(triton.cdiv(text.count, launch.rows), launch.programs)
    partial_gate = torch.empty((1, programs, width), dtype=torch.float32, device=grad.device)
    partial_scale = partial_gate.new_empty(programs)
    embed_window_backward[(programs,)](
        text,
        tables,
        scale,
        grad,
        into_sum,
        partial_gate,
        partial_scale,
        eps,
        row_tile(width, launch.rows),
        WINDOW=window,
        VOCABULARY=vocabulary,
        **launch.options,
    )
    return into_sum, column_sums(partial_gate)[0, :window], partial_scale.sum()


@triton.jit
def embed_window_forward(text, tables, scale, x, eps, tile, WINDOW: tl.constexpr):
    """Write the normed sum of a tile of positions, x (N, C); scale () fp32.

    It moves what ``embed_forward`` moves: 101 MB are written at 98,304 x 512 in bf16, and rows are
    gathered from the L2 cache.
    """
    rows, columns = row_indices(tl.program_id(0) * tile.ROWS, tile), column_indices(tile)
    positions = rows.to(tl.int32)
    mask = positions < text.count
    value = embedding_of(text, tables, positions, mask, columns, tile)
    open_gate = continues(text, positions, mask)
    previous = embedding_of(text, tables, positions - 1, open_gate, columns, tile)
    weight = load(tables.smear_gate, columns, columns < WINDOW)
    value += tl.load(scale) * gate_of(value, weight, tile) * previous
    value *= tl.rsqrt(row_mean(value * value, tile) + eps)
    store(x, rows * tile.C + columns, value, mask & (columns < tile.C))


@triton.jit
def embed_window_backward(
    text,
    tables,
    scale,
    grad,
    into_sum,
    partial_gate,
    partial_scale,
    eps,
    tile,
    WINDOW: tl.constexpr,
    VOCABULARY: tl.constexpr,
):
    """Compute the gradient of the summed embedding through RMSNorm and SmearGate.

        d_value_i = the norm's gradient
        d_logit_i = scale s_i (1 - s_i) d_value_i . x_{i-1}
        d_x_i     = d_value_i + d_logit_i smear_gate + scale s_{i+1} d_value_{i+1}

    and the program's sums of d_logit_i x_i and s_i d_value_i . x_{i-1}. The norm of position i + 1
    is computed again, from rows that the caches hold. Closed gates count as x_{i-1} = 0 and
    d_value_{i+1} = 0. grad, into_sum (N, C); partial_gate (programs, C), partial_scale (programs,)
    fp32. It moves what ``embed_backward`` moves, 201 MB at 98,304 x 512 in bf16.
    """
    columns = column_indices(tile)
    inside = columns < tile.C
    weight = load(tables.smear_gate, columns, columns < WINDOW)
    by_scale = tl.load(scale)
    sum_gate = zeros(tile)
    sum_scale = tl.zeros((tile.ROWS, 1, 1), dtype=tl.float32)
    for first in range(tl.program_id(0) * tile.ROWS, text.count, tl.num_programs(0) * tile.ROWS):
        rows = row_indices(first, tile)
        positions, offsets = rows.to(tl.int32), rows * tile.C + columns
        mask = positions < text.count
        preceded = continues(text, positions, mask)
        followed = continues(text, positions + 1, positions + 1 < text.count)
        x = keyed_embedding(text, tables, positions, mask, columns, VOCABULARY, tile)
        previous = keyed_embedding(text, tables, positions - 1, preceded, columns, VOCABULARY, tile)
        gate = gate_of(x, weight, tile)
        into_x = load(grad, offsets, mask & inside)
        into_x = unnormed(into_x, x + by_scale * gate * previous, eps, tile)
        product = row_mean(into_x * previous, tile) * tile.C
        into_logit = by_scale * gate * (1 - gate) * product
        sum_scale += gate * product
        sum_gate += into_logit * x
        into_x += into_logit * weight

        later = keyed_embedding(text, tables, positions + 1, followed, columns, VOCABULARY, tile)
        by_later = by_scale * gate_of(later, weight, tile)
        into_later = load(grad, offsets + tile.C, followed & inside)
        into_later = unnormed(into_later, later + by_later * x, eps, tile)
        store(into_sum, offsets, into_x + by_later * into_later, mask & inside)
    store_column_sums(partial_gate, sum_gate, tile)
    tl.store(partial_scale + tl.program_id(0), tl.sum(sum_scale))


@triton.jit
def keyed_embedding(text, tables, positions, mask, columns, VOCABULARY: tl.constexpr, tile):
    """Return ``summed_embedding`` of positions, whose bigrams' rows are among the keys."""
    ids = tl.load(text.ids + positions, mask=mask, other=0).to(tl.int32)
    bigrams = ids
    if tables.projected is not None:
        bigrams = keyed_rows(text, positions, mask, VOCABULARY)
    return summed_embedding(tables, ids, bigrams, mask, columns, tile)


@triton.jit
def gate_of(x, weight, tile):
    """Return ``sigmoid(x . weight)`` of each row (ROWS, 1, 1)."""
    return tl.sigmoid(row_mean(x * weight, tile) * tile.C)


@triton.jit
def unnormed(grad, value, eps, tile):
    """Return the gradient of a norm's input ``value`` from that of its output."""
    by_rms = tl.rsqrt(row_mean(value * value, tile) + eps)
    projection = row_mean(grad * value, tile) * by_rms * by_rms
    return normed_gradient(grad, value, projection, by_rms)
