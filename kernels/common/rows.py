"""How a tile of rows lies in registers, for kernels that reduce along each row.

A tile is (ROWS, CHUNKS, CHUNK): row r's column ``chunk * CHUNK + c`` is at [r, chunk, c]. Triton
gives the lanes to the contiguous dimension and the warps to the first: with CHUNK = 256 bf16, a
chunk of a row is one 16-byte load of each of 32 lanes, the rows go to the warps, and the chunks
stay in a lane's registers, so that a sum along a row is shuffles inside one warp. As a plain
(ROWS, 512) tile each row would be cut over two warps, and every sum would meet in shared memory
behind a barrier.
"""

# pyright: basic
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

CHUNK = 256


@dataclass(frozen=True)
class Launch:
    """Rows of a tile, warps of a program, and programs of a persistent grid.

    The number of programs is a constant, not the GPU's number of multiprocessors, for it sets the
    order in which sums over rows are taken.
    """

    rows: int
    warps: int
    programs: int = 0


def row_tile(width: int) -> dict[str, Any]:
    """The constants C, CHUNKS and CHUNK of a kernel on rows of ``width`` columns."""
    padded = triton.next_power_of_2(width)
    chunk = min(padded, CHUNK)
    return {"C": width, "CHUNKS": padded // chunk, "CHUNK": chunk}


def row_count(x: Tensor) -> int:
    """Rows of ``x`` (..., C)."""
    return x.numel() // x.size(-1)


@triton.jit
def row_indices(first, ROWS: tl.constexpr):
    """(ROWS, 1, 1) int64: offsets of large batches need more than 31 bits."""
    return (first + tl.arange(0, ROWS)).to(tl.int64)[:, None, None]


@triton.jit
def column_indices(CHUNKS: tl.constexpr, CHUNK: tl.constexpr):
    """(1, CHUNKS, CHUNK)."""
    chunks = tl.arange(0, CHUNKS)[None, :, None] * CHUNK
    return chunks + tl.arange(0, CHUNK)[None, None, :]


@triton.jit
def load(pointer, offsets, mask):
    """In fp32, zero where masked."""
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store(pointer, offsets, tile, mask):
    """In the pointer's dtype."""
    tl.store(pointer + offsets, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_row_values(pointer, rows, rows_total):
    """(ROWS, 1, 1): one number a row of ``pointer`` (N,)."""
    return tl.load(pointer + rows, mask=rows < rows_total, other=0.0)


@triton.jit
def store_row_values(pointer, rows, values, rows_total):
    """One number a row, ``values`` (ROWS, 1, 1), to ``pointer`` (N,)."""
    tl.store(pointer + rows, values, mask=rows < rows_total)


@triton.jit
def row_mean(tile, C: tl.constexpr):
    """(ROWS, 1, 1): chunks first, which takes no shuffle."""
    return tl.sum(tl.sum(tile, axis=1, keep_dims=True), axis=2, keep_dims=True) / C


@triton.jit
def store_column_sums(pointer, tile, C: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr):
    """Sum of a tile's rows to row ``program_id(0)`` of ``pointer`` (programs, C)."""
    columns = column_indices(CHUNKS, CHUNK)
    sums = tl.sum(tile, axis=0, keep_dims=True)
    tl.store(pointer + tl.program_id(0) * C + columns, sums, mask=columns < C)
