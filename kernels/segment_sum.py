"""Sums of rows by key, the backward pass of a lookup, with the same bits every time.

Keys are sorted once (stably, so that rows keep their order), and each run of equal keys is cut at
every multiple of PIECE of the sorted order. Segment v, at [start_v, start_{v+1}) of that order,
owns the slots ``slot_v = start_v // PIECE + v`` to ``slot_{v+1} - 1``: as many as it may have
pieces, so no prefix sum is needed, and no two segments share one. One program sums a slot's piece
of at most PIECE rows, however frequent its key; a second kernel adds a segment's slots in order.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.rows import column_indices, load, row_indices, row_tile

PIECE = 64
ROWS, SLOTS, WARPS = 8, 16, 4  # a turn of ``sum_pieces``, of ``sum_slots``; warps of both


def segment_sum(rows: Tensor, keys: Tensor, segments: int) -> Tensor:
    """``sums[v] = sum of rows[i % N] where keys[i] == v``.

    Args:
        rows: (N, C).
        keys: (K * N,) integers in [0, segments): K keys for each row, row by row in K lists.
        segments: how many keys there are.

    Returns:
        (segments, C) fp32.
    """
    count, width = rows.shape
    ordered, order = torch.sort(keys, stable=True)
    borders = torch.arange(segments + 1, dtype=keys.dtype, device=keys.device)
    starts = torch.searchsorted(ordered, borders, out_int32=True)
    slots = keys.numel() // PIECE + segments
    tile = row_tile(width)
    pieces = torch.empty((slots, width), dtype=torch.float32, device=rows.device)
    sum_pieces[(slots,)](
        rows,
        order,
        starts,
        pieces,
        count,
        segments,
        STEPS=segments.bit_length(),
        PIECE=PIECE,
        ROWS=ROWS,
        num_warps=WARPS,
        **tile,
    )
    sums = torch.empty((segments, width), dtype=torch.float32, device=rows.device)
    sum_slots[(segments,)](pieces, starts, sums, PIECE=PIECE, ROWS=SLOTS, num_warps=WARPS, **tile)
    return sums


@triton.jit
def first_slot(starts, segment, PIECE: tl.constexpr):
    """Of ``segment``; that of the number of segments is the number of slots."""
    return tl.load(starts + segment) // PIECE + segment


@triton.jit
def sum_pieces(
    rows,
    order,
    starts,
    pieces,
    count,
    segments,
    STEPS: tl.constexpr,
    PIECE: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """``pieces[slot] = sum of its at most PIECE rows``, zero where there are none.

    rows (N, C) bf16 or fp32, order (K N,) int64, starts (segments + 1,) int32, pieces fp32. The
    slot's segment is found by halving: STEPS loads of one number, from the L2 cache.

    For the embedding at the real size, N = 98304, K = 2, C = 512, 3072 segments: rows are read K
    times, 201 MB in lines of 1 KB (47 us at 4275 GB/s), 6144 pieces of 2 KB written, 0.1 GFLOP.
    A turn's row numbers are read while the rows of the turn before are on their way: with 8 rows, 2
    a warp, 64 registers keep 32 warps and 64 KB of gathers in flight a multiprocessor. 8 KB of
    shared memory for the sums over warps.
    """
    slot = tl.program_id(0)
    segment, beyond = slot * 0, slot * 0 + segments
    for _ in range(STEPS):
        middle = (segment + beyond) // 2
        left = first_slot(starts, middle, PIECE) > slot
        beyond = tl.where(left, middle, beyond)
        segment = tl.where(left, segment, middle)

    cut = (slot - segment) * PIECE
    start = tl.maximum(tl.load(starts + segment), cut)
    stop = tl.minimum(tl.load(starts + segment + 1), cut + PIECE)
    columns = column_indices(CHUNKS, CHUNK)
    total = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
    places = row_indices(start, ROWS)
    source = tl.load(order + places, mask=places < stop, other=0)
    for _ in range(start, stop, ROWS):
        offsets = (source.to(tl.int32) % count).to(tl.int64) * C + columns
        total += load(rows, offsets, (places < stop) & (columns < C))
        places += ROWS
        source = tl.load(order + places, mask=places < stop, other=0)
    sums = tl.sum(total, axis=0, keep_dims=True)
    tl.store(pieces + slot.to(tl.int64) * C + columns, sums, mask=columns < C)


@triton.jit
def sum_slots(
    pieces,
    starts,
    sums,
    PIECE: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """``sums[v] = sum of the pieces of segment v``, in their order.

    12.6 MB of pieces, from the L2 cache, and 6.3 MB written at the embedding's real size: 3 us. A
    key that is a tenth of all has 154 pieces, ten turns of 16: as long as the rest takes.
    """
    segment = tl.program_id(0)
    stop = first_slot(starts, segment + 1, PIECE)
    columns = column_indices(CHUNKS, CHUNK)
    total = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
    for first in range(first_slot(starts, segment, PIECE), stop, ROWS):
        slots = row_indices(first, ROWS)
        total += load(pieces, slots * C + columns, (slots < stop) & (columns < C))
    summed = tl.sum(total, axis=0, keep_dims=True)
    tl.store(sums + segment.to(tl.int64) * C + columns, summed, mask=columns < C)
