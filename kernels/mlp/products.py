"""The two products of the MLP that meet its activation, which never leaves the registers.

    a  = leaky(h)^2,  h = x @ up.T
    dh = (dy @ down) * 2 leaky(h) leaky'(h)

Between them only a and the sign of h are kept: see ``kernels.mlp.autograd``. Here are kernels for
any size and dtype; where ``mlp_stationary`` fits, its faster ones with the same results run
instead.
"""

# Pyright takes a launch for a call of the kernel.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.common import stationary
from kernels.mlp import products_hopper as mlp_stationary

# Signs are packed by 128 columns into 8 words of 16 bits, column 8j + i into bit j of word i: in a
# Hopper product's register layout one thread then owns all bits of a word.
SIGN_COLUMNS = 128
SIGN_WORDS = 8


@dataclass(frozen=True)
class Tile:
    """Of one product: ``rows`` x ``columns`` of the result, ``depth`` of the sum at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# By bytes an element. fp32 is for tests: it has no tensor core product of its precision.
UP_TILES = {2: Tile(128, 256, 64, warps=8, stages=3), 4: Tile(32, 128, 32, warps=4, stages=2)}
GRADIENT_TILES = {2: Tile(128, 256, 64, warps=8, stages=3), 4: Tile(32, 128, 32, warps=4, stages=2)}


def activated_product(x: Tensor, up: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """a (N, M) of x (N, C) and up (M, C), and h's signs, packed for ``activation_gradient``."""
    if stationary.fits(x, up.size(0)):
        return mlp_stationary.activated_product(x, up, slope)
    tile = UP_TILES[x.element_size()]
    rows, hidden = x.size(0), up.size(0)
    activated = x.new_empty(rows, hidden)
    sign_shape = (ceil_div(hidden, SIGN_COLUMNS), rows, SIGN_WORDS)
    signs = torch.empty(sign_shape, dtype=torch.int16, device=x.device)
    up_kernel[(programs(tile, rows, hidden, x.device),)](
        TensorDescriptor.from_tensor(x.contiguous(), [tile.rows, tile.depth]),
        TensorDescriptor.from_tensor(up.contiguous(), [tile.columns, tile.depth]),
        TensorDescriptor.from_tensor(activated, [tile.rows, SIGN_COLUMNS]),
        signs,
        rows,
        hidden,
        x.size(1),
        slope,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return activated, signs


def activation_gradient(
    dy: Tensor, down: Tensor, activated: Tensor, signs: Tensor, slope: float
) -> Tensor:
    """dh (N, M) of dy (N, C), down (C, M) and what ``activated_product`` returned."""
    if stationary.fits(dy, activated.size(1)):
        return mlp_stationary.activation_gradient(dy, down, activated, signs, slope)
    tile = GRADIENT_TILES[dy.element_size()]
    rows, hidden = activated.shape
    dh = torch.empty_like(activated)
    gradient_kernel[(programs(tile, rows, hidden, dy.device),)](
        TensorDescriptor.from_tensor(dy.contiguous(), [tile.rows, tile.depth]),
        TensorDescriptor.from_tensor(down.contiguous(), [tile.depth, tile.columns]),
        TensorDescriptor.from_tensor(activated, [tile.rows, SIGN_COLUMNS]),
        signs,
        TensorDescriptor.from_tensor(dh, [tile.rows, SIGN_COLUMNS]),
        rows,
        hidden,
        dy.size(1),
        slope,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return dh


def programs(tile: Tile, rows: int, columns: int, device: torch.device) -> int:
    """One an SM, or one a tile where there are fewer."""
    tiles = ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns)
    return min(tiles, multiprocessors(device))


def ceil_div(length: int, part: int) -> int:
    return -(-length // part)


@cache
def multiprocessors(device: torch.device) -> int:
    """How many the GPU has; the interpreter is one."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def up_kernel(
    x_NC,
    up_MC,
    activated_NM,
    signs,
    rows,
    hidden,
    width,
    slope,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """``h = x @ up.T``, ``a = leaky(h)^2`` and the signs of h, for a persistent set of programs.

    x (N, C), up (M, C), a (N, M): TMA descriptors of one dtype; sums and activation in fp32. signs
    (M / 128, N, 8) int16.

    At N 98304, C 512, M 1536 in bf16: 155 GFLOP; reads x 101 MB (the 6 column tiles of a row tile
    run side by side, so five of them find it in L2) and up 1.6 MB, writes a 302 MB and signs 19 MB:
    423 MB. Floor on an H200: 256 us of products at 600 TFLOP/s, over 99 us of traffic.

    128 x 256 tiles make 85 FLOP of each byte that L2 brings, so 600 TFLOP/s ask 7 TB/s of it; tiles
    of 128 x 128 would ask 9.4, more than it has. The sum takes 128 registers a thread on 8 warps;
    3 stages of 48 KB leave room for the result's 32 KB on its way out. The loop over tiles is
    flattened, so that the next tile's loads fly during the epilogue.
    """
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(hidden, COLUMNS)
    for tile in tl.range(
        tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True
    ):
        row = tile // column_tiles * ROWS
        column = tile % column_tiles * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for depth in range(0, width, DEPTH):
            x = x_NC.load([row, depth])
            up = up_MC.load([column, depth])
            total = tl.dot(x, up.T, total, input_precision="ieee")
        if COLUMNS == 256:
            left, right = halves(total)
            activate(left, row, column, activated_NM, signs, rows, hidden, slope)
            activate(right, row, column + 128, activated_NM, signs, rows, hidden, slope)
        else:
            activate(total, row, column, activated_NM, signs, rows, hidden, slope)


@triton.jit
def gradient_kernel(
    dy_NC,
    down_CM,
    activated_NM,
    signs,
    dh_NM,
    rows,
    hidden,
    width,
    slope,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """``dh = (dy @ down) * 2 leaky(h) leaky'(h)``, the factor from a and the signs of h.

    dy (N, C), down (C, M), a and dh (N, M): TMA descriptors of one dtype; signs (M / 128, N, 8).

    At N 98304, C 512, M 1536 in bf16: 155 GFLOP; reads dy 101 MB, down 1.6 MB, a 302 MB and signs
    19 MB, writes dh 302 MB: 726 MB. Floor on an H200: 256 us of products, over 170 us of traffic.
    Tiles and registers as in ``up_kernel``.
    """
    row_tiles = tl.cdiv(rows, ROWS)
    column_tiles = tl.cdiv(hidden, COLUMNS)
    for tile in tl.range(
        tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True
    ):
        row = tile // column_tiles * ROWS
        column = tile % column_tiles * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for depth in range(0, width, DEPTH):
            dy = dy_NC.load([row, depth])
            down = down_CM.load([depth, column])
            total = tl.dot(dy, down, total, input_precision="ieee")
        if COLUMNS == 256:
            left, right = halves(total)
            derive(left, row, column, activated_NM, signs, dh_NM, rows, hidden, slope)
            derive(right, row, column + 128, activated_NM, signs, dh_NM, rows, hidden, slope)
        else:
            derive(total, row, column, activated_NM, signs, dh_NM, rows, hidden, slope)


@triton.jit
def activate(h, row, column, activated_NM, signs, rows, hidden, slope):
    """Store ``leaky(h)^2`` and the signs of h (ROWS, 128), whose corner is (row, column)."""
    leaky = tl.where(h < 0, slope * h, h)
    activated_NM.store([row, column], (leaky * leaky).to(activated_NM.dtype))
    bits = (h < 0).to(tl.int32).reshape(h.shape[0], 16, 8) << tl.arange(0, 16)[None, :, None]
    words, inside = sign_words(signs, row, column, rows, hidden, h.shape[0])
    tl.store(words, tl.sum(bits, axis=1).to(tl.int16), mask=inside)


@triton.jit
def derive(da, row, column, activated_NM, signs, dh_NM, rows, hidden, slope):
    """Store ``da * 2 leaky(h) leaky'(h)`` for da (ROWS, 128), whose corner is (row, column)."""
    words, inside = sign_words(signs, row, column, rows, hidden, da.shape[0])
    packed = tl.load(words, mask=inside, other=0).to(tl.int32)
    bits = (packed[:, None, :] >> tl.arange(0, 16)[None, :, None]) & 1
    twice_slope = tl.where(bits.reshape(da.shape[0], 128) == 1, -2.0 * slope, 2.0)
    activated = activated_NM.load([row, column]).to(tl.float32)
    dh_NM.store([row, column], (da * (twice_slope * tl.sqrt(activated))).to(dh_NM.dtype))


@triton.jit
def sign_words(signs, row, column, rows, hidden, ROWS: tl.constexpr):
    """Pointers (ROWS, 8) to the sign words of 128 columns, and which of them exist."""
    row_of = row + tl.arange(0, ROWS)[:, None]
    words = ((column // 128).to(tl.int64) * rows + row_of) * 8 + tl.arange(0, 8)[None, :]
    return signs + words, (row_of < rows) & (column < hidden)


@triton.jit
def halves(x):
    """The left and the right half of x's columns, which no register leaves."""
    pair = x.reshape(x.shape[0], 2, x.shape[1] // 2).permute(0, 2, 1)
    return tl.split(pair)
