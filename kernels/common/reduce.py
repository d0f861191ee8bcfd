"""The second pass of a sum over rows: add the partial sums of a persistent grid's programs."""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.launch import Launch

LAUNCH = Launch(rows=128, columns=32, warps=4)  # columns: one 128-byte line a row


def column_sums(partial: Tensor) -> Tensor:
    """Return ``partial.sum(1)``, (K, P, C) fp32 -> (K, C), in an order set by the shapes alone."""
    vectors, programs, width = partial.shape
    sums = torch.empty((vectors, width), dtype=torch.float32, device=partial.device)
    if vectors:
        column_sums_kernel[(triton.cdiv(width, LAUNCH.columns), vectors)](
            partial,
            sums,
            programs,
            width,
            ROWS=LAUNCH.rows,
            COLUMNS=LAUNCH.columns,
            **LAUNCH.options,
        )
    return sums


@triton.jit
def column_sums_kernel(partial, sums, programs, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write ``sums[k, c] = sum over p of partial[k, p, c]``, all fp32.

    Program (j, k) sums 32 columns (one 128-byte line a row) of vector k, 128 rows at a time. The
    first pass left its results in the L2 cache. A tile of 16 KB is 32 registers a thread with 4
    warps.
    """
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    vector = tl.program_id(1)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, programs, ROWS):
        rows = first + tl.arange(0, ROWS)
        mask = (rows < programs)[:, None] & (columns < width)[None, :]
        offsets = (vector * programs + rows)[:, None] * width + columns[None, :]
        total += tl.load(partial + offsets, mask=mask, other=0.0)
    tl.store(sums + vector * width + columns, tl.sum(total, axis=0), mask=columns < width)
