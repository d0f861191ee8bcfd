"""A product of two operands in e4m3, alone or onto the residual stream.

    y = stream + (x @ weight.T) * x's scales * weight's scales

x (N, K) and weight (O, K) in e4m3, both contiguous along the sum; scales fp32, one a row; y and
stream (N, O) in the compute dtype; sums in fp32, as exact as the tensor cores add e4m3 products.
"""

# Pyright takes a launch for a call of the kernel.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.common.device import multiprocessors
from kernels.common.launch import Launch
from kernels.common.math import halves
from kernels.common.product import corner, tile_product
from kernels.operand import Operand

# By bytes an element of the compute dtype. Compiled, not timed.
LAUNCH = {
    2: Launch(rows=128, columns=256, depth=128, warps=8, stages=3),
    4: Launch(rows=32, columns=64, depth=32, warps=4, stages=2),  # for tests
}


class Scales(NamedTuple):
    """fp32 scales of rows, and how many there are."""

    x: Any
    """(N,)."""
    weight: Any
    """(O,)."""
    rows: Any
    """N."""
    columns: Any
    """O."""


def product(
    x: Operand, weight: Operand, dtype: torch.dtype, stream: Tensor | None = None
) -> Tensor:
    """Return ``x @ weight.T`` in ``dtype``, or add it in the memory of ``stream`` (..., O)."""
    assert x.scale is not None and weight.scale is not None
    shape = (*x.values.shape[:-1], weight.values.size(0))
    y = x.values.new_empty(shape, dtype=dtype) if stream is None else stream
    values, result, launch = rows(x.values), y.view(-1, shape[-1]), LAUNCH[y.element_size()]
    scales = Scales(x.scale.contiguous(), weight.scale.contiguous(), *result.shape)
    tiles = triton.cdiv(len(values), launch.rows) * triton.cdiv(shape[-1], launch.columns)
    product_kernel[(min(tiles, multiprocessors(y.device)),)](
        TensorDescriptor.from_tensor(values, [launch.rows, launch.depth]),
        TensorDescriptor.from_tensor(weight.values.contiguous(), [launch.columns, launch.depth]),
        TensorDescriptor.from_tensor(result, [launch.rows, launch.columns // 2]),
        scales,
        values.size(1),
        ADD=stream is not None,
        ROWS=launch.rows,
        COLUMNS=launch.columns,
        DEPTH=launch.depth,
        **launch.options,
    )
    return y


def rows(x: Tensor) -> Tensor:
    """Return x (..., K) as a contiguous (N, K)."""
    return x.reshape(-1, x.size(-1)).contiguous()


@triton.jit
def product_kernel(
    x_NK,
    weight_OK,
    y_NO,
    scales,
    width,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Write y (N, O), or add to it: a set of persistent programs. All tensors: TMA descriptors.

    At N 98,304, K 2,048, O 512: 206 GFLOP; reads x 201 MB, reads and writes y 201 MB. Tiles of
    128 x 256 make 171 FLOP of each byte from L2; two neighbouring programs read the same rows of x.
    """
    column_tiles = tl.cdiv(scales.columns, COLUMNS)
    for tile in tl.range(
        tl.program_id(0),
        tl.cdiv(scales.rows, ROWS) * column_tiles,
        tl.num_programs(0),
        flatten=True,
    ):
        row, column = corner(tile, column_tiles, ROWS, COLUMNS)
        total = tile_product(
            x_NK, weight_OK, row, column, width, ROWS, COLUMNS, DEPTH, True, "tf32"
        )
        lines = row + tl.arange(0, ROWS)
        total *= tl.load(scales.x + lines, mask=lines < scales.rows, other=0.0)[:, None]
        left, right = halves(total)
        finish(left, row, column, y_NO, scales, ADD)
        finish(right, row, column + COLUMNS // 2, y_NO, scales, ADD)


@triton.jit
def finish(total, row, column, y_NO, scales, ADD: tl.constexpr):
    """Scale the columns of a part of a tile, whose corner is (row, column), and store or add it."""
    columns = column + tl.arange(0, total.shape[1])
    total *= tl.load(scales.weight + columns, mask=columns < scales.columns, other=0.0)[None, :]
    if ADD:
        total += y_NO.load([row, column]).to(tl.float32)
    y_NO.store([row, column], total.to(y_NO.dtype))
