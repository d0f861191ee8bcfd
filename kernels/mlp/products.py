"""The MLP's two products next to its activation, which stays in registers.

    a  = leaky(h)^2,  h = x @ up.T
    dh = (dy @ down) * 2 leaky(h) leaky'(h)

x, dy (N, C), up (M, C), down (C, M), a and dh (N, M), all of one dtype; sums and activation in
fp32. Only a and the sign of h are saved (``kernels.mlp.autograd``). The kernel here takes any size
and dtype. If ``kernels.common.stationary`` fits, the faster ones of ``kernels.mlp.products_hopper``
run, with the same results.
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
from kernels.common.math import halves
from kernels.common.product import corner, tile_product
from kernels.mlp import products_hopper

# Signs are packed by 128 columns into 8 words of 16 bits, column 8j + i into bit j of word i: in a
# Hopper product's register layout one thread then has all bits of a word.
SIGN_COLUMNS = 128
SIGN_WORDS = 8

# By bytes an element: rows and columns of the result, depth of the sum. Registers of up, gradient.
LAUNCH = {
    # 177, 255 registers. Compiled, not timed: 4 stages 177 and 229 KB; depth 32 with 4 stages 177,
    # 254; 128 columns with 2 stages 135, 172; 64 rows with 4 warps and 2 stages 194, 255; 256 x
    # 128, or 128 x 128 with 4 warps: spills.
    2: Launch(rows=128, columns=256, depth=64, warps=8, stages=3),
    # fp32 is for tests: it has no tensor core product of its precision.
    4: Launch(rows=32, columns=128, depth=32, warps=4, stages=2),
}


class Signs(NamedTuple):
    """The signs of h (N, M), one bit each."""

    words: Any
    """(M / 128, N, 8) int16."""
    rows: Any
    """N."""
    hidden: Any
    """M."""


def activated_product(x: Tensor, up: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Return a (N, M) of x (N, C) and up (M, C), and h's signs for ``activation_gradient``."""
    if stationary.fits(x, up.size(0)):
        return products_hopper.activated_product(x, up, slope)
    launch = LAUNCH[x.element_size()]
    rows, hidden = x.size(0), up.size(0)
    activated = x.new_empty(rows, hidden)
    sign_shape = (triton.cdiv(hidden, SIGN_COLUMNS), rows, SIGN_WORDS)
    signs = torch.empty(sign_shape, dtype=torch.int16, device=x.device)
    weight = TensorDescriptor.from_tensor(up.contiguous(), [launch.columns, launch.depth])
    launch_product(launch, x, weight, activated, signs, None, slope)
    return activated, signs


def activation_gradient(
    dy: Tensor, down: Tensor, activated: Tensor, signs: Tensor, slope: float
) -> Tensor:
    """Return dh (N, M) of dy (N, C), down (C, M) and what ``activated_product`` returned."""
    # Widths of 64 (2 n + 1) fit in bf16 only: then the kernels of ``kernels.mlp.fp8`` made signs.
    if signs.dtype == torch.int32 and stationary.fits(dy, activated.size(1)):
        return products_hopper.activation_gradient(dy, down, activated, signs, slope)
    launch = LAUNCH[dy.element_size()]
    dh = torch.empty_like(activated)
    weight = TensorDescriptor.from_tensor(down.contiguous(), [launch.depth, launch.columns])
    launch_product(launch, dy, weight, activated, signs, dh, slope)
    return dh


def launch_product(
    launch: Launch,
    x: Tensor,
    weight: TensorDescriptor,
    activated: Tensor,
    signs: Tensor,
    dh: Tensor | None,
    slope: float,
) -> None:
    """Launch ``product_kernel``: one program a multiprocessor, or a tile if there are fewer."""
    (rows, hidden), block = activated.shape, [launch.rows, SIGN_COLUMNS]
    tiles = triton.cdiv(rows, launch.rows) * triton.cdiv(hidden, launch.columns)
    product_kernel[(min(tiles, multiprocessors(x.device)),)](
        TensorDescriptor.from_tensor(x.contiguous(), [launch.rows, launch.depth]),
        weight,
        TensorDescriptor.from_tensor(activated, block),
        None if dh is None else TensorDescriptor.from_tensor(dh, block),
        Signs(signs, rows, hidden),
        x.size(1),
        slope,
        ROWS=launch.rows,
        COLUMNS=launch.columns,
        DEPTH=launch.depth,
        **launch.options,
    )


@triton.jit
def product_kernel(
    x_NC,
    weight,
    activated_NM,
    dh_NM,
    signs,
    width,
    slope,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Write ``a = leaky(h)^2``, h = x @ up.T, and the signs of h; or dh, if ``dh_NM`` is not None.

    x (N, C), a and dh (N, M): TMA descriptors; weight is up (M, C), or down (C, M) with dh, whose x
    is dy. A set of persistent programs.

    At N 98,304, C 512, M 1,536 in bf16: 155 GFLOP and 423 MB, or 726 MB with dh. The 6 column tiles
    of a row tile run at about the same time, so that five of them find x in the L2 cache.

    128 x 256 tiles make 85 FLOP of each byte from L2, tiles of 128 x 128 only 64. The sum takes 128
    registers a thread on 8 warps. 3 stages of 48 KB leave 32 KB of shared memory for the result.
    The loop over tiles is flattened, so that the next tile's loads overlap with the epilogue.
    """
    row_tiles = tl.cdiv(signs.rows, ROWS)
    column_tiles = tl.cdiv(signs.hidden, COLUMNS)
    for tile in tl.range(
        tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True
    ):
        row, column = corner(tile, column_tiles, ROWS, COLUMNS)
        total = tile_product(
            x_NC, weight, row, column, width, ROWS, COLUMNS, DEPTH, dh_NM is None, "ieee"
        )
        if COLUMNS == 256:
            left, right = halves(total)
            finish(left, row, column, activated_NM, dh_NM, signs, slope)
            finish(right, row, column + 128, activated_NM, dh_NM, signs, slope)
        else:
            finish(total, row, column, activated_NM, dh_NM, signs, slope)


@triton.jit
def finish(total, row, column, activated_NM, dh_NM, signs, slope):
    """Store the results of a sum (ROWS, 128) whose corner is (row, column)."""
    if dh_NM is None:
        activate(total, row, column, activated_NM, signs, slope)
    else:
        derive(total, row, column, activated_NM, dh_NM, signs, slope)


@triton.jit
def activate(h, row, column, activated_NM, signs, slope):
    """Store ``leaky(h)^2`` and the signs of h (ROWS, 128), whose corner is (row, column)."""
    leaky = tl.where(h < 0, slope * h, h)
    activated_NM.store([row, column], (leaky * leaky).to(activated_NM.dtype))
    bits = (h < 0).to(tl.int32).reshape(h.shape[0], 16, 8) << tl.arange(0, 16)[None, :, None]
    words, inside = sign_words(signs, row, column, h.shape[0])
    tl.store(words, tl.sum(bits, axis=1).to(tl.int16), mask=inside)


@triton.jit
def derive(da, row, column, activated_NM, dh_NM, signs, slope):
    """Store ``da * 2 leaky(h) leaky'(h)`` for da (ROWS, 128), whose corner is (row, column)."""
    words, inside = sign_words(signs, row, column, da.shape[0])
    packed = tl.load(words, mask=inside, other=0).to(tl.int32)
    bits = (packed[:, None, :] >> tl.arange(0, 16)[None, :, None]) & 1
    twice_slope = tl.where(bits.reshape(da.shape[0], 128) == 1, -2.0 * slope, 2.0)
    activated = activated_NM.load([row, column]).to(tl.float32)
    dh_NM.store([row, column], (da * (twice_slope * tl.sqrt(activated))).to(dh_NM.dtype))


@triton.jit
def sign_words(signs, row, column, ROWS: tl.constexpr):
    """Return pointers (ROWS, 8) to the sign words of 128 columns, and which of them exist."""
    row_of = row + tl.arange(0, ROWS)[:, None]
    words = ((column // 128).to(tl.int64) * signs.rows + row_of) * 8 + tl.arange(0, 8)[None, :]
    return signs.words + words, (row_of < signs.rows) & (column < signs.hidden)
