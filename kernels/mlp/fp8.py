"""The MLP's first product in e4m3, which writes the activation in both precisions.

    a = leaky(h)^2,  h = x @ up.T

x (N, C) and up (M, C) in e4m3, scales fp32, sums and activation in fp32. a (N, M) is written in the
compute dtype, because the gradients of up and down need it, and in e4m3 for the second product. The
scale of a row of a is known before the product, because norms bound it (``kernels.mlp.bound``): no
pass finds its maximum, and no block waits for another.

At N 98,304, C 512, M 2,048: 206 GFLOP. The extra 201 MB that are written here are the 201 MB that
the second product reads less. The kernel here takes any size; ``up_fp8_hopper`` is faster.
"""

# Pyright takes a launch for a call of the kernel.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.common import stationary
from kernels.common.device import multiprocessors
from kernels.common.launch import Launch
from kernels.common.product import corner, tile_product
from kernels.linear.fp8 import product
from kernels.mlp import LEAST_LARGEST, bound, up_fp8_hopper
from kernels.mlp.products import SIGN_COLUMNS, SIGN_WORDS, Signs, activate
from kernels.operand import FP8, Operand, sourced

LEAST = tl.constexpr(LEAST_LARGEST)
# By bytes an element of the compute dtype. Compiled, not timed.
LAUNCH = {
    2: Launch(rows=128, columns=SIGN_COLUMNS, depth=128, warps=8, stages=3),  # registers
    4: Launch(rows=32, columns=SIGN_COLUMNS, depth=32, warps=4, stages=2),  # for tests
}


class Scales(NamedTuple):
    """fp32 scales of rows, and what ``kernels.mlp.bound`` returns."""

    x: Any
    """(N,)."""
    up: Any
    """(M,)."""
    activated: Any
    """(N,), to be written."""
    bound: Any


def forward(
    x: Operand,
    up: Operand,
    down: Operand,
    slope: float,
    dtype: torch.dtype,
    stream: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (N, C), a (N, M) in ``dtype`` and h's signs; y is added to ``stream`` if given."""
    activated, signs = activated_product(x, up, slope, dtype)
    return product(activated, down, dtype, stream), sourced(activated), signs


def activated_product(
    x: Operand, up: Operand, slope: float, dtype: torch.dtype
) -> tuple[Operand, Tensor]:
    """Return a (N, M) in fp8 with its source in ``dtype``, and h's signs.

    The signs are for ``kernels.mlp.products.activation_gradient`` of tensors in ``dtype``.
    """
    values, hidden = x.values.reshape(-1, x.values.size(-1)), up.values.size(0)
    source = values.new_empty(len(values), hidden, dtype=dtype)
    rounded = torch.empty_like(source, dtype=FP8)
    made = torch.empty_like(source[:, 0], dtype=torch.float32)
    assert x.scale is not None and up.scale is not None
    scales = Scales(x.scale.contiguous(), up.scale.contiguous(), made, bound(slope))
    if dtype == torch.bfloat16 and stationary.fits(values, hidden):
        signs = up_fp8_hopper.launch(values, up.values, scales, source, rounded, slope)
    else:
        signs = launch(values, up.values, scales, source, rounded, slope)
    return Operand(rounded, made, source), signs


def launch(
    x: Tensor, up: Tensor, scales: Scales, source: Tensor, rounded: Tensor, slope: float
) -> Tensor:
    """Launch ``up_kernel``; return the signs as ``kernels.mlp.products`` has them."""
    (rows, hidden), launch = source.shape, LAUNCH[source.element_size()]
    sign_shape = (triton.cdiv(hidden, SIGN_COLUMNS), rows, SIGN_WORDS)
    signs = torch.empty(sign_shape, dtype=torch.int16, device=x.device)
    tiles = triton.cdiv(rows, launch.rows) * triton.cdiv(hidden, launch.columns)
    block = [launch.rows, launch.columns]
    up_kernel[(min(tiles, multiprocessors(x.device)),)](
        TensorDescriptor.from_tensor(x.contiguous(), [launch.rows, launch.depth]),
        TensorDescriptor.from_tensor(up.contiguous(), [launch.columns, launch.depth]),
        TensorDescriptor.from_tensor(source, block),
        TensorDescriptor.from_tensor(rounded, block),
        scales,
        Signs(signs, rows, hidden),
        x.size(1),
        slope,
        ROWS=launch.rows,
        COLUMNS=launch.columns,
        DEPTH=launch.depth,
        **launch.options,
    )
    return signs


@triton.jit
def up_kernel(
    x_NC,
    up_MC,
    activated_NM,
    rounded_NM,
    scales,
    signs,
    width,
    slope,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Write a in both precisions, its scales, and the signs of h: a set of persistent programs.

    x (N, C), up (M, C), and a (N, M) twice: TMA descriptors.
    """
    column_tiles = tl.cdiv(signs.hidden, COLUMNS)
    factor = largest_squared(scales.up, signs.hidden, COLUMNS) * scales.bound
    for tile in tl.range(
        tl.program_id(0),
        tl.cdiv(signs.rows, ROWS) * column_tiles,
        tl.num_programs(0),
        flatten=True,
    ):
        row, column = corner(tile, column_tiles, ROWS, COLUMNS)
        h = tile_product(x_NC, up_MC, row, column, width, ROWS, COLUMNS, DEPTH, True, "tf32")
        columns = column + tl.arange(0, COLUMNS)
        h *= tl.load(scales.up + columns, mask=columns < signs.hidden, other=0.0)[None, :]
        leaky = tl.where(h < 0, slope * h, h)
        rounded = leaky * leaky * (1.0 / factor)
        rounded_NM.store([row, column], rounded.to(rounded_NM.dtype))
        rows = row + tl.arange(0, ROWS)
        scale = tl.load(scales.x + rows, mask=rows < signs.rows, other=0.0)
        tl.store(
            scales.activated + rows,
            scale * scale * factor,
            mask=(rows < signs.rows) & (column == 0),
        )
        activate(h * scale[:, None], row, column, activated_NM, signs, slope)


@triton.jit
def largest_squared(scale, hidden, COLUMNS: tl.constexpr):
    """Return the square of the largest of up's scales (M,), or of ``LEAST_LARGEST``."""
    largest = tl.full((COLUMNS,), LEAST, tl.float32)
    for first in range(0, hidden, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        largest = tl.maximum(largest, tl.load(scale + columns, mask=columns < hidden, other=0.0))
    most = tl.max(largest, axis=0)
    return most * most
