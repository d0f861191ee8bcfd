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
from kernels.common.rows import (
    RowTile,
    column_indices,
    load,
    row_indices,
    row_tile,
    store,
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

# A program is one warp with a row at a time, so no sum needs shared memory.
# In tiles of rows on 4 warps the gate's fp32 vector sets a layout that cuts rows over warps.
LAUNCH = {
    "forward": Launch(warps=1, programs=32 * 132),  # 55 registers, 32 programs a multiprocessor
    # 96 registers, 21 programs, 4 KB each. With 2 stages no copy overlaps with its use.
    "backward": Launch(warps=1, stages=3, programs=21 * 132, registers=96),
}


def launch_window_forward(text: Text, tables: Tables, scale: Tensor, eps: float) -> Tensor:
    """Return the first hidden state, (B, T, C) in the tables' dtype."""
    launch, width = LAUNCH["forward"], tables.table.size(1)
    shape = (text.count // text.length, text.length, width)
    x = torch.empty(shape, dtype=tables.table.dtype, device=text.ids.device)
    embed_window_forward[(min(text.count, launch.programs),)](
        text,
        tables,
        scale,
        x,
        eps,
        row_tile(width, 1),
        near_tile(width, tables.smear_gate.numel()),
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
    programs = min(text.count, launch.programs)
    partial = torch.empty((window + 1, programs), dtype=torch.float32, device=grad.device)
    embed_window_backward[(programs,)](
        text,
        tables,
        scale,
        grad,
        into_sum,
        partial,
        eps,
        row_tile(width, 1),
        near_tile(width, window),
        WINDOW=window,
        VOCABULARY=vocabulary,
        STAGES=launch.stages,
        **launch.options,
    )
    sums = partial.sum(1)
    return into_sum, sums[:window], sums[window]


def near_tile(width: int, window: int) -> RowTile:
    """Return the tile of the channels of one row that the gate reads."""
    return row_tile(width, 1)._replace(
        CHUNKS=tl.constexpr(1), CHUNK=tl.constexpr(triton.next_power_of_2(window))
    )


@triton.jit
def embed_window_forward(text, tables, scale, x, eps, tile, near, WINDOW: tl.constexpr):
    """Write the normed sum of a run of consecutive positions, x (N, C); scale () fp32.

    The position before stays in registers, so each row is loaded once. At 98,304 x 512 in bf16 it
    writes 101 MB and gathers 101 MB from the L2 cache. A row takes a warp 177 instructions, 246
    with bigrams, and the latency of one load.
    """
    columns = column_indices(tile)
    run = tl.cdiv(text.count, tl.num_programs(0))
    first = tl.program_id(0) * run
    before = (first > 0) & (first < text.count)
    previous = embedding_of(text, tables, first - 1, before, columns, tile)
    by_scale = tl.load(scale)
    near_columns = column_indices(near)
    weight = load(tables.smear_gate, near_columns, near_columns < WINDOW)
    for position in range(first, tl.minimum(first + run, text.count)):
        mask = position < text.count
        value = embedding_of(text, tables, position, mask, columns, tile)
        gate = gate_of(embedding_of(text, tables, position, mask, near_columns, near), weight)
        by_gate = tl.where(continues(text, position, mask), by_scale * gate, 0.0)
        mixed = value + by_gate * previous
        mixed *= tl.rsqrt(tl.sum(mixed * mixed) / tile.C + eps)
        store(x, row_indices(position, tile) * tile.C + columns, mixed, columns < tile.C)
        previous = value


@triton.jit
def embed_window_backward(
    text,
    tables,
    scale,
    grad,
    into_sum,
    partial,
    eps,
    tile,
    near,
    WINDOW: tl.constexpr,
    VOCABULARY: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute the gradient of the summed embedding through RMSNorm and SmearGate.

        d_value_i = the norm's gradient
        d_logit_i = scale s_i (1 - s_i) d_value_i . x_{i-1}
        d_x_i     = d_value_i + d_logit_i smear_gate + scale s_{i+1} d_value_{i+1}

    and the program's sums of d_logit_i x_i and s_i d_value_i . x_{i-1}, partial (W + 1, programs)
    fp32. A program goes back through a run of positions and keeps x_{i-1} and d_value_{i+1}, both
    without factors. It begins with the position after its run, of which it only wants that. Closed
    gates count as x_{i-1} = 0 and d_value_{i+1} = 0. grad, into_sum (N, C).

    It moves what ``embed_backward`` moves, 201 MB at 98,304 x 512 in bf16. Copies of a position's
    rows to shared memory run while the position after it is computed. A row takes a warp 389
    instructions.
    """
    columns, near_columns = column_indices(tile), column_indices(near)
    inside, in_window = columns < tile.C, near_columns < WINDOW
    weight = load(tables.smear_gate, columns, columns < WINDOW)
    near_weight = load(tables.smear_gate, near_columns, in_window)
    by_scale = tl.load(scale)
    run = tl.cdiv(text.count, tl.num_programs(0))
    first = tl.program_id(0) * run
    stop = tl.minimum(first + run, text.count)
    index, mask = stop % text.length, stop < text.count
    ids, bigrams = keys_of(text, tables, stop, mask, VOCABULARY)
    x = summed_embedding(tables, ids, bigrams, mask, columns, tile)
    near_x = summed_embedding(tables, ids, bigrams, mask, near_columns, near)
    later, sum_gate = zeros(tile), zeros(near)
    by_later, sum_scale = 0.0, 0.0
    for turn in tl.range(0, stop - first + 1, num_stages=STAGES):
        position = stop - turn
        mask, own = position > 0, position < stop
        offsets = row_indices(position, tile) * tile.C + columns
        previous_ids, bigrams = keys_of(text, tables, position - 1, mask, VOCABULARY)
        previous = summed_embedding(tables, previous_ids, bigrams, mask, columns, tile)
        near_previous = summed_embedding(tables, previous_ids, bigrams, mask, near_columns, near)
        into_out = load(grad, offsets, (position < text.count) & inside)
        preceded = index != 0  # at position ``count``, too
        if text.BOS is not None:
            preceded = preceded & (ids != text.BOS)
        gate = gate_of(near_x, near_weight)
        by_gate = tl.where(preceded, by_scale * gate, 0.0)
        value = x + by_gate * previous
        by_rms = tl.rsqrt(tl.sum(value * value) / tile.C + eps)
        projection = tl.sum(into_out * value) / tile.C * by_rms * by_rms
        into_value = into_out - value * projection  # without its factor by_rms
        product = tl.where(own & preceded, by_rms * tl.sum(into_value * previous), 0.0)
        into_logit = by_gate * (1 - gate) * product
        sum_scale += gate * product
        sum_gate += into_logit * near_x
        into_x = by_rms * into_value + by_later * later + into_logit * weight
        store(into_sum, offsets, into_x, own & inside)
        later, by_later = into_value, by_gate * by_rms
        x, near_x, ids = previous, near_previous, previous_ids
        index = tl.where(index == 0, text.length, index) - 1  # a remainder takes 25 instructions
    program, programs = tl.program_id(0), tl.num_programs(0)
    tl.store(partial + near_columns * programs + program, sum_gate, mask=in_window)
    tl.store(partial + WINDOW * programs + program, sum_scale)


@triton.jit
def keys_of(text, tables, position, mask, VOCABULARY: tl.constexpr):
    """Return the rows of the two tables that a position looks up, read from the keys."""
    ids = tl.load(text.ids + position, mask=mask, other=0).to(tl.int32)
    bigrams = ids
    if tables.projected is not None:
        bigrams = keyed_rows(text, position, mask, VOCABULARY)
    return ids, bigrams


@triton.jit
def gate_of(near_x, weight):
    """Return ``sigmoid(x[:W] . weight)`` of a row."""
    return tl.sigmoid(tl.sum(near_x * weight))
