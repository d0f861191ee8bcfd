"""Sums of rows by key, the backward pass of a lookup, with the same bits every time.

    sums[v] = sum of the rows (N, C) whose key is v, (segments, C) fp32

Keys are sorted once, stably, so that rows stay in order. The sorted order is cut into pieces of
PIECE lookups, however frequent a key is. A program reads one piece in order and stores a sum
wherever the key changes. The sum of segment v in piece p has slot ``p + v``. No two pairs have the
same slot, because both numbers only grow. A second kernel adds a segment's slots in order.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.launch import Launch

LAUNCH = {
    # rows: PIECE, lookups of a program; depth: BATCH, lookups loaded at once. 135 registers.
    # Compiled, not timed: BATCH 8 76 registers; one warp 255 and a stack, 130 with BATCH 8.
    "pieces": Launch(rows=64, depth=16),
    "slots": Launch(depth=8),  # parts loaded at once
}
WARP_COLUMNS = 256  # of ``sum_pieces``: 16 bytes of bf16 a lane
WARP_SUMS = 128  # columns of ``sum_slots``: 16 bytes of fp32 a lane


class Lookups(NamedTuple):
    """The rows that each segment sums, in the order of the segments.

    Attributes:
        keys: (K N,) sorted.
        rows: (K N,) int64, the row of each.
        starts: (segments + 1,) int32, the first entry of each segment.
    """

    keys: Tensor
    rows: Tensor
    starts: Tensor

    @classmethod
    def empty(cls, keys: Tensor, segments: int) -> "Lookups":
        """Return buffers for what ``sort`` writes."""
        rows = torch.empty(keys.shape, dtype=torch.int64, device=keys.device)
        starts = torch.empty(segments + 1, dtype=torch.int32, device=keys.device)
        return cls(torch.empty_like(keys), rows, starts)

    def sort(self, keys: Tensor, count: int) -> None:
        """Sort ``keys`` (K N,), integers in [0, segments): K lists for the N = ``count`` rows.

        Allocates nothing that is needed afterwards, so it may run on a side stream.
        """
        torch.sort(keys, stable=True, out=(self.keys, self.rows))
        borders = torch.arange(len(self.starts), dtype=keys.dtype, device=keys.device)
        torch.searchsorted(self.keys, borders, out_int32=True, out=self.starts)
        self.rows.remainder_(count)


def segment_sum(rows: Tensor, lookups: Lookups) -> Tensor:
    """Return the sums of the rows (N, C) that each segment looked up, (segments, C) fp32."""
    width, total, segments = rows.size(1), len(lookups.keys), len(lookups.starts) - 1
    launch = LAUNCH["pieces"]
    pieces = triton.cdiv(total, launch.rows)
    parts = torch.empty((pieces + segments, width), dtype=torch.float32, device=rows.device)
    padded = triton.next_power_of_2(width)
    sum_pieces[(pieces,)](
        rows,
        lookups.keys,
        lookups.rows,
        parts,
        total,
        PIECE=launch.rows,
        BATCH=launch.depth,
        C=width,
        PADDED=padded,
        num_warps=max(1, padded // WARP_COLUMNS),
    )
    sums = torch.empty((segments, width), dtype=torch.float32, device=rows.device)
    sum_slots[(segments,)](
        parts,
        lookups.starts,
        sums,
        PIECE=launch.rows,
        BATCH=LAUNCH["slots"].depth,
        C=width,
        PADDED=padded,
        num_warps=max(1, padded // WARP_SUMS),
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
    """Write ``parts[p + v] = sum of the rows of segment v in piece p`` for each v in the piece.

    rows (N, C) bf16 or fp32, keys (total,) sorted, sources (total,) int64 and parts fp32.

    For 98,304 x 512 in bf16 and two lists of keys it reads 201 MB in lines of 1 KB and writes 6,000
    sums of 2 KB. A thread has 8 columns, so nothing is added over threads. 16 rows are in flight
    before the first is needed. 135 registers leave 7 programs of 2 warps, 112 KB of rows a
    multiprocessor.
    """
    tl.static_assert(PIECE % BATCH == 0)
    piece = tl.program_id(0)
    columns = tl.arange(0, PADDED)
    inside = columns < C
    key = tl.load(keys + piece * PIECE).to(tl.int32)
    summed = tl.zeros((PADDED,), tl.float32)
    for first in range(piece * PIECE, (piece + 1) * PIECE, BATCH):
        sources_of, keys_of, loaded = (), (), ()
        for i in tl.static_range(BATCH):
            valid = first + i < total
            sources_of += (tl.load(sources + first + i, mask=valid, other=0),)
            keys_of += (tl.load(keys + first + i, mask=valid, other=-1).to(tl.int32),)
        for i in tl.static_range(BATCH):
            mask = inside & (keys_of[i] >= 0)
            loaded += (tl.load(rows + sources_of[i] * C + columns, mask=mask, other=0.0),)
        for i in tl.static_range(BATCH):
            if (keys_of[i] != key) & (keys_of[i] >= 0):
                tl.store(parts + (piece + key).to(tl.int64) * C + columns, summed, mask=inside)
                summed = tl.zeros((PADDED,), tl.float32)
                key = keys_of[i]
            summed += loaded[i].to(tl.float32)
    tl.store(parts + (piece + key).to(tl.int64) * C + columns, summed, mask=inside)


@triton.jit
def sum_slots(
    parts,
    starts,
    sums,
    PIECE: tl.constexpr,
    BATCH: tl.constexpr,
    C: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Write ``sums[v] = sum of the parts of segment v``, in their order; zero if it has none.

    For 98,304 x 512 and two lists of keys it reads 12.6 MB, from the L2 cache, and writes 6.3 MB. A
    thread has 4 columns, so nothing is added over threads. A key that is a tenth of all has 154
    parts, 20 iterations of 8.
    """
    segment = tl.program_id(0)
    columns = tl.arange(0, PADDED)
    inside = columns < C
    begin, end = tl.load(starts + segment), tl.load(starts + segment + 1)
    stop = segment + tl.where(end > begin, (end + PIECE - 1) // PIECE, 0)
    first_slot = segment + begin // PIECE
    first_part = parts + first_slot.to(tl.int64) * C + columns
    summed = tl.zeros((PADDED,), tl.float32)
    for first in range(0, stop - first_slot, BATCH):
        loaded = ()
        for i in tl.static_range(BATCH):
            mask = inside & (first + i < stop - first_slot)
            loaded += (tl.load(first_part + (first + i) * C, mask=mask, other=0.0),)
        for i in tl.static_range(BATCH):
            summed += loaded[i]
    tl.store(sums + segment.to(tl.int64) * C + columns, summed, mask=inside)
