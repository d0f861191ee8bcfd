"""The layout of a tile of rows in registers, in kernels that reduce each row.

A tile is (ROWS, CHUNKS, CHUNK): column ``chunk * CHUNK + c`` of row r is at [r, chunk, c]. Triton
distributes the contiguous dimension over lanes and the first over warps. With CHUNK = 256 in bf16,
a chunk of a row is one 16-byte load by each of 32 lanes. Each row belongs to one warp, and the
chunks stay in a lane's registers. So a row's sum takes shuffles inside one warp. A plain (ROWS,
512) tile would split each row over two warps, and every sum would need shared memory and a barrier.
"""

# pyright: basic
from functools import cache
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

CHUNK = 256


class RowTile(NamedTuple):
    """Constants of a tile of rows, each a ``tl.constexpr``."""

    C: Any
    """Columns of a row."""
    ROWS: Any
    """Rows of the tile."""
    CHUNKS: Any
    """Chunks of a row."""
    CHUNK: Any
    """Columns of a chunk; the last chunk may extend beyond C."""


@cache
def row_tile(width: int, rows: int) -> RowTile:
    """Return the tile of ``rows`` rows of ``width`` columns."""
    padded = triton.next_power_of_2(width)
    chunk = min(padded, CHUNK)
    return RowTile(*map(tl.constexpr, (width, rows, padded // chunk, chunk)))


def row_count(x: Tensor) -> int:
    """Return the number of rows of ``x`` (..., C)."""
    return x.numel() // x.size(-1)


@triton.jit
def row_indices(first, tile):
    """Return the tile's rows (ROWS, 1, 1), int64 because large batches' offsets exceed 31 bits."""
    return (first + tl.arange(0, tile.ROWS)).to(tl.int64)[:, None, None]


@triton.jit
def column_indices(tile):
    """Return the tile's columns (1, CHUNKS, CHUNK)."""
    chunks = tl.arange(0, tile.CHUNKS)[None, :, None] * tile.CHUNK
    return chunks + tl.arange(0, tile.CHUNK)[None, None, :]


@triton.jit
def zeros(tile):
    """Return a tile of fp32 zeros."""
    return tl.zeros((tile.ROWS, tile.CHUNKS, tile.CHUNK), dtype=tl.float32)


@triton.jit
def load(pointer, offsets, mask):
    """Load a tile as fp32; masked elements are zero."""
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store(pointer, offsets, values, mask):
    """Store a tile in the pointer's dtype."""
    tl.store(pointer + offsets, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_row_values(pointer, rows, rows_total):
    """Load one number a row of ``pointer`` (N,), as (ROWS, 1, 1)."""
    return tl.load(pointer + rows, mask=rows < rows_total, other=0.0)


@triton.jit
def store_row_values(pointer, rows, values, rows_total):
    """Store one number a row, ``values`` (ROWS, 1, 1), to ``pointer`` (N,)."""
    tl.store(pointer + rows, values, mask=rows < rows_total)


@triton.jit
def row_mean(values, tile):
    """Return the means of rows (ROWS, 1, 1). Chunks are summed first, which takes no shuffle."""
    return tl.sum(tl.sum(values, axis=1, keep_dims=True), axis=2, keep_dims=True) / tile.C


@triton.jit
def store_column_sums(pointer, values, tile):
    """Store the sum of a tile's rows to row ``program_id(0)`` of ``pointer`` (programs, C)."""
    columns = column_indices(tile)
    sums = tl.sum(values, axis=0, keep_dims=True)
    tl.store(pointer + tl.program_id(0) * tile.C + columns, sums, mask=columns < tile.C)
