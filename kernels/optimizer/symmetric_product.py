"""Polynomials of many matrices and of their products with their own transposes, by half.

    P = a I + b M + c M M^T

Such a product is symmetric: only tiles on and below the diagonal are computed, and each of those
below is stored a second time, mirrored. That Muon's products can be had so is known from
modded-nanogpt's Triton kernels and from Dao-AILab's quack and Gram Newton-Schulz.
"""

# Pyright takes a launch for a call of the kernel.
# pyright: basic, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportAttributeAccessIssue=false
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ALIGNED = 8  # elements that rows begin at a multiple of: the TMA asks for 16 bytes
EPS = tl.constexpr(1e-7)


@dataclass(frozen=True)
class Tile:
    """Of the product ``side`` rows and columns, ``depth`` of the sum at a time."""

    side: int
    depth: int
    warps: int
    stages: int


# By bytes an element. fp32 is for tests: it has no tensor core product of its precision.
TILES = {2: Tile(128, 64, warps=4, stages=3), 4: Tile(32, 32, warps=4, stages=2)}
# Of 22 matrices of 256, tiles of 128 would be 66 for 132 multiprocessors: 8.9 us, these 5.4.
SMALL_SIDE, SMALL_TILE = 256, Tile(64, 64, warps=4, stages=4)


class SymmetricProduct:
    """``products = (a I + b M + c M M^T) / norm^power`` of matrices that stay where they are.

    So their descriptors are made once, and a launch can be captured.

    Args:
        matrices: M (n, side, width), as ``aligned_empty`` makes them.
        products: (n, side, side) of the same dtype, likewise; not M.
    """

    def __init__(self, matrices: Tensor, products: Tensor) -> None:
        self.count, side, self.width = matrices.shape
        self.tile = tile = tile_of(side, matrices.element_size())
        square = [1, tile.side, tile.side]
        self._strips = TensorDescriptor.from_tensor(matrices, [1, tile.side, tile.depth])
        self._squares = (
            TensorDescriptor.from_tensor(matrices, square) if side == self.width else None
        )
        self._products = TensorDescriptor.from_tensor(products, square)
        rows = triton.cdiv(side, tile.side)
        self.tiles = rows * (rows + 1) // 2

    def __call__(
        self, a: float, b: float, c: float, *, norms: Tensor | None = None, power: int = 0
    ) -> None:
        """Make the products.

        Args:
            a, b, c: of the unit matrix, of M, and of M M^T; b is 0 unless M is square.
            norms: (n, parts) fp32, whose sums are squares of norms, to which 1e-7 is added.
            power: of the norm, 1 or 2; 0 without ``norms``.
        """
        if b and self._squares is None:
            raise ValueError("M itself can be added only where it is square")
        parts = 0 if norms is None else norms.size(1)
        symmetric_product[(self.tiles, self.count)](
            self._strips,
            self._squares if b else None,
            self._products,
            norms,
            self.width,
            a,
            b,
            c,
            POWER=power,
            PARTS=parts,
            PADDED=triton.next_power_of_2(parts),
            SIDE=self.tile.side,
            DEPTH=self.tile.depth,
            num_warps=self.tile.warps,
            num_stages=self.tile.stages,
        )


def tile_of(side: int, element_size: int) -> Tile:
    """Of products of ``side`` rows, by the bytes of an element."""
    return SMALL_TILE if element_size == 2 and side <= SMALL_SIDE else TILES[element_size]


def aligned_empty(
    count: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(count, rows, columns) whose rows are ``pitch(columns)`` apart."""
    padded = torch.empty(count, rows, pitch(columns), dtype=dtype, device=device)
    return padded[..., :columns]


def pitch(columns: int) -> int:
    """Elements from one row to the next: all of them at real sizes."""
    return -(-columns // ALIGNED) * ALIGNED


@triton.jit
def symmetric_product(
    strips,
    squares,
    products,
    norms,
    width,
    a,
    b,
    c,
    POWER: tl.constexpr,
    PARTS: tl.constexpr,
    PADDED: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """``P = (a I + b M + c M M^T) / (|M| + 1e-7)^POWER`` of each matrix, one tile a program.

    TMA descriptors of one dtype: M (n, side, width) by (SIDE, DEPTH) in ``strips`` and by
    (SIDE, SIDE) in ``squares`` (None: b is 0), P (n, side, side). norms (n, PARTS) fp32, the parts
    of |M|^2; None: POWER is 0. Sums in fp32, rounded once.

    22 matrices of 512 x 1536 in bf16, tiles of 128: 10 of 16 tiles, 11.1 of 17.7 GFLOP, 16 us at
    672 TFLOP/s; in and out once 46 MB, 11 us at 4275 GB/s, most of it in the L2 cache. What a tile
    on the diagonal asks of L2 are one strip's rows, else two: 138 MB, 23 us at 6 TB/s. A product of
    512 x 512: 3.7 of 5.9 GFLOP, 5.5 us; from L2 53 MB with b M, 9 us.

    A sum of 128 x 128 takes 128 registers a thread on 4 warps, 3 stages 96 KB, in which the result
    is mirrored afterwards: two programs a multiprocessor, of which one multiplies while the other
    stores. 220 tiles of 22 matrices are one wave of these, where 176 tiles of 128 x 256 are two.

    Mirrored bits are copies, on the diagonal as well, whatever the order of a tensor core's sums.
    """
    row, column = place_of(tl.program_id(0))
    row, column, matrix = row * SIDE, column * SIDE, tl.program_id(1)
    sums = tl.zeros((SIDE, SIDE), tl.float32)
    if row == column:
        for depth in range(0, width, DEPTH):
            rows = strips.load([matrix, row, depth]).reshape(SIDE, DEPTH)
            sums = tl.dot(rows, rows.T, sums, input_precision="ieee")
    else:
        for depth in range(0, width, DEPTH):
            rows = strips.load([matrix, row, depth]).reshape(SIDE, DEPTH)
            columns = strips.load([matrix, column, depth]).reshape(SIDE, DEPTH)
            sums = tl.dot(rows, columns.T, sums, input_precision="ieee")
    share = 1.0
    if POWER > 0:
        share /= power_of_norm(norms + matrix * PARTS, POWER, PARTS, PADDED)
    i, j = row + tl.arange(0, SIDE)[:, None], column + tl.arange(0, SIDE)[None, :]
    value = share * c * sums + tl.where(i == j, share * a, 0.0)
    if squares is not None:
        value += share * b * squares.load([matrix, row, column]).reshape(SIDE, SIDE).to(tl.float32)
    store_twice(value.to(products.dtype), products, matrix, row, column)


@triton.jit
def place_of(tile):
    """Row and column of a tile; those on and below the diagonal are counted row by row."""
    row = ((tl.sqrt_rn((8 * tile + 1).to(tl.float32)) - 1) / 2).to(tl.int32)
    return row, tile - row * (row + 1) // 2


@triton.jit
def power_of_norm(squares, POWER: tl.constexpr, PARTS: tl.constexpr, PADDED: tl.constexpr):
    """A norm to the power of 1 or 2, from the parts of its square."""
    part = tl.arange(0, PADDED)
    norm = tl.sqrt_rn(tl.sum(tl.load(squares + part, mask=part < PARTS, other=0.0))) + EPS
    return norm * norm if POWER == 2 else norm


@triton.jit
def store_twice(tile, products, matrix, row, column):
    """Store a tile whose corner is (row, column), and what mirrors it; no element is written twice.

    Of a tile on the diagonal what lies below counts.
    """
    SIDE: tl.constexpr = tile.shape[0]
    if row == column:
        line = tl.arange(0, SIDE)
        tile = tl.where(line[None, :] <= line[:, None], tile, tile.T)
    else:
        products.store([matrix, column, row], tile.T.reshape(1, SIDE, SIDE))
    products.store([matrix, row, column], tile.reshape(1, SIDE, SIDE))
