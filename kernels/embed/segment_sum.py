"""Sums of rows by key, the backward pass of a lookup, with the same bits every time.

Keys are sorted once (stably, so that rows keep their order), and the sorted order is cut into
pieces of PIECE lookups, however frequent a key. A program walks through a piece and puts down a
sum wherever the key changes; that of segment v in piece p has slot ``p + v``, which no other pair
has, for both only ever grow. A second kernel adds a segment's slots in order.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.rows import column_indices, load, row_indices, row_tile

PIECE, BATCH = 64, 16  # lookups of a program of ``sum_pieces``, and of them loaded at once
LANES_COLUMNS = 256  # of a warp there: 16 bytes of bf16 a lane
SLOTS, WARPS = 16, 4  # of ``sum_slots``


class Lookups(NamedTuple):
    """Which rows each segment sums up, in the order of the segments.

    Attributes:
        keys: (K N,) sorted.
        rows: (K N,) int64, the row of each.
        starts: (segments + 1,) int32, where each segment's begin.
    """

    keys: Tensor
    rows: Tensor
    starts: Tensor

    @classmethod
    def room(cls, keys: Tensor, segments: int) -> "Lookups":
        """For what ``sort`` finds."""
        rows = torch.empty(keys.shape, dtype=torch.int64, device=keys.device)
        starts = torch.empty(segments + 1, dtype=torch.int32, device=keys.device)
        return cls(torch.empty_like(keys), rows, starts)

    def sort(self, keys: Tensor, count: int) -> None:
        """Fill it for ``keys`` (K N,), integers in [0, segments): K lists for the N rows.

        Allocates nothing that is needed afterwards, so it may run on a side stream.
        """
        torch.sort(keys, stable=True, out=(self.keys, self.rows))
        borders = torch.arange(len(self.starts), dtype=keys.dtype, device=keys.device)
        torch.searchsorted(self.keys, borders, out_int32=True, out=self.starts)
        self.rows.remainder_(count)


def segment_sum(rows: Tensor, lookups: Lookups) -> Tensor:
    """``sums[v] = sum of the rows (N, C) that segment v looked up``, (segments, C) fp32."""
    width, total, segments = rows.size(1), len(lookups.keys), len(lookups.starts) - 1
    pieces = triton.cdiv(total, PIECE)
    parts = torch.empty((pieces + segments, width), dtype=torch.float32, device=rows.device)
    padded = triton.next_power_of_2(width)
    sum_pieces[(pieces,)](
        rows,
        lookups.keys,
        lookups.rows,
        parts,
        total,
        PIECE=PIECE,
        BATCH=BATCH,
        C=width,
        PADDED=padded,
        num_warps=max(1, padded // LANES_COLUMNS),
    )
    sums = torch.empty((segments, width), dtype=torch.float32, device=rows.device)
    sum_slots[(segments,)](
        parts, lookups.starts, sums, PIECE=PIECE, ROWS=SLOTS, num_warps=WARPS, **row_tile(width)
    )
    return sums


@triton.jit
def sum_pieces(
    rows,
    keys,
    sources,
    parts,
    total,
    PIECE: tl.constexpr,
    BATCH: tl.constexpr,
    C: tl.constexpr,
    PADDED: tl.constexpr,
):
    """``parts[p + v] = sum of the rows of segment v in piece p``, of those v that are in it.

    rows (N, C) bf16 or fp32, keys (total,) sorted, sources (total,) int64 and parts fp32.

    At the embedding's real size, N = 98304, C = 512, bf16, two lists of keys: each row is read
    twice, 201 MB in lines of 1 KB (47 us at 4275 GB/s); 6 k sums of 2 KB written; 0.1 GFLOP. A
    thread has its own 8 columns, so nothing is added over threads. 16 rows are on their way before
    the first is needed: 135 registers leave 7 programs of 2 warps, 112 KB of rows a multiprocessor.
    About 600 instructions for 16 rows and a warp are 16 us of issue slots.
    """
    tl.static_assert(PIECE % BATCH == 0)
    piece = tl.program_id(0)
    columns = tl.arange(0, PADDED)
    inside = columns < C
    key = tl.load(keys + piece * PIECE).to(tl.int32)
    summed = tl.zeros((PADDED,), tl.float32)
    for first in range(piece * PIECE, (piece + 1) * PIECE, BATCH):
        found, own, loaded = (), (), ()
        for i in tl.static_range(BATCH):
            valid = first + i < total
            found += (tl.load(sources + first + i, mask=valid, other=0),)
            own += (tl.load(keys + first + i, mask=valid, other=-1).to(tl.int32),)
        for i in tl.static_range(BATCH):
            mask = inside & (own[i] >= 0)
            loaded += (tl.load(rows + found[i] * C + columns, mask=mask, other=0.0),)
        for i in tl.static_range(BATCH):
            if (own[i] != key) & (own[i] >= 0):
                tl.store(parts + (piece + key).to(tl.int64) * C + columns, summed, mask=inside)
                summed = tl.zeros((PADDED,), tl.float32)
                key = own[i]
            summed += loaded[i].to(tl.float32)
    tl.store(parts + (piece + key).to(tl.int64) * C + columns, summed, mask=inside)


@triton.jit
def sum_slots(
    parts,
    starts,
    sums,
    PIECE: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """``sums[v] = sum of the parts of segment v``, in their order; zero where it has none.

    12.6 MB of parts, from the L2 cache, and 6.3 MB written at the embedding's real size: 3 us. A
    key that is a tenth of all has 154 parts, ten turns of 16: as long as the rest takes.
    """
    segment = tl.program_id(0)
    begin, end = tl.load(starts + segment), tl.load(starts + segment + 1)
    stop = segment + tl.where(end > begin, (end + PIECE - 1) // PIECE, 0)
    columns = column_indices(CHUNKS, CHUNK)
    total = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
    for first in range(segment + begin // PIECE, stop, ROWS):
        slots = row_indices(first, ROWS)
        total += load(parts, slots * C + columns, (slots < stop) & (columns < C))
    summed = tl.sum(total, axis=0, keep_dims=True)
    tl.store(sums + segment.to(tl.int64) * C + columns, summed, mask=columns < C)
