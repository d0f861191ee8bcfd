"""Symmetric polynomials of many matrices, computed by half.

    P = a I + b M + c M M^T

P is symmetric: only tiles on and below the diagonal are computed, and each tile below is stored a
second time, mirrored. modded-nanogpt's Triton kernels and Dao-AILab's quack and Gram Newton-Schulz
do the same for Muon.
"""

# Pyright takes a launch for a call of the kernel.
# pyright: basic, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportAttributeAccessIssue=false
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.common.launch import Launch

ALIGNED = 8  # rows begin at a multiple of so many elements, because the TMA needs 16 bytes
EPS = tl.constexpr(1e-7)

# By bytes an element: rows and columns of the product, depth of the sum. Times in us of A of
# 512 x 1536, A of 512 x 512 and its polynomial, 22 matrices: H100, commit febceab.
LAUNCH = {
    # 27.4, 11.3, 12.5. cuBLAS 26.3, 10.8, 14.1; depth 32 with 6 stages 26.3, 12.8, 13.8; 8 warps
    # 26.4, 11.0, 16.7; pairs of tiles with a common strip, 8 warps, 29.6, 13.7, 15.4.
    2: Launch(rows=128, columns=128, depth=64, warps=4, stages=3),
    # fp32 is for tests: it has no tensor core product of its precision.
    4: Launch(rows=32, columns=32, depth=32, warps=4, stages=2),
}
# Up to this side in bf16, because 22 matrices of 256 have only 66 tiles of 128 for 132
# multiprocessors. A of 256 x 512 and its polynomial 5.4, 4.8; tiles of 128 8.9, 7.4; cuBLAS 5.3,
# 4.4. For larger sides tiles of 64 take 31.0, 12.9, 14.2.
SMALL_SIDE = 256
SMALL = Launch(rows=64, columns=64, depth=64, warps=4, stages=4)


class Polynomial(NamedTuple):
    """P = a I + b M + c M M^T."""

    a: Any
    b: Any
    c: Any


class Norms(NamedTuple):
    """Divisors of the products: (sqrt(sum of a matrix's parts) + 1e-7)^POWER."""

    parts: Any
    """(n, PARTS) fp32, None if POWER is 0."""
    POWER: Any
    PARTS: Any
    PADDED: Any
    """PARTS, to a power of two."""


@cache
def norm_constants(power: int, parts: int) -> tuple[Any, Any, Any]:
    """Return POWER, PARTS and PADDED as constants of the kernel."""
    power_of_two = triton.next_power_of_2(parts)
    return tl.constexpr(power), tl.constexpr(parts), tl.constexpr(power_of_two)


class SymmetricProduct:
    """``products = (a I + b M + c M M^T) / norm^power`` of matrices at fixed addresses.

    Descriptors are made once, so a launch can be captured.

    Args:
        matrices: M (n, side, width), as ``aligned_empty`` makes them.
        products: (n, side, side) of the same dtype, likewise; not M.
    """

    def __init__(self, matrices: Tensor, products: Tensor) -> None:
        self.count, side, self.width = matrices.shape
        self.launch = launch = launch_of(side, matrices.element_size())
        square = [1, launch.rows, launch.columns]
        self._strips = TensorDescriptor.from_tensor(matrices, [1, launch.rows, launch.depth])
        self._squares = (
            TensorDescriptor.from_tensor(matrices, square) if side == self.width else None
        )
        self._products = TensorDescriptor.from_tensor(products, square)
        rows = triton.cdiv(side, launch.rows)
        self.tiles = rows * (rows + 1) // 2

    def __call__(
        self, a: float, b: float, c: float, *, norms: Tensor | None = None, power: int = 0
    ) -> None:
        """Compute the products.

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
            Norms(norms, *norm_constants(power, parts)),
            self.width,
            Polynomial(a, b, c),
            SIDE=self.launch.rows,
            DEPTH=self.launch.depth,
            **self.launch.options,
        )


def launch_of(side: int, element_size: int) -> Launch:
    """Return the launch for products of ``side`` rows, by the bytes of an element."""
    return SMALL if element_size == 2 and side <= SMALL_SIDE else LAUNCH[element_size]


def aligned_empty(
    count: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return a tensor (count, rows, columns) whose rows are ``pitch(columns)`` apart."""
    padded = torch.empty(count, rows, pitch(columns), dtype=dtype, device=device)
    return padded[..., :columns]


def pitch(columns: int) -> int:
    """Return how many elements rows are apart: ``columns`` if it is a multiple of 8."""
    return -(-columns // ALIGNED) * ALIGNED


@triton.jit
def symmetric_product(
    strips, squares, products, norms, width, polynomial, SIDE: tl.constexpr, DEPTH: tl.constexpr
):
    """Write a tile of ``P = (a I + b M + c M M^T) / (|M| + 1e-7)^POWER`` of a matrix.

    TMA descriptors of one dtype: M (n, side, width) by (SIDE, DEPTH) in ``strips`` and by
    (SIDE, SIDE) in ``squares`` (None: b is 0), P (n, side, side). norms ``Norms``, the parts of
    |M|^2; polynomial ``Polynomial``. Sums in fp32, rounded once.

    22 matrices of 512 x 1536 in bf16, by tiles of 128, take 10 of 16 tiles, 11.1 of 17.7 GFLOP. A
    tile on the diagonal reads one strip's rows, another two: 138 MB from the L2 cache. Products of
    512 x 512 take 3.7 of 5.9 GFLOP.

    A sum of 128 x 128 takes 128 registers a thread on 4 warps. 3 stages are 96 KB, in which the
    result is mirrored afterwards. So two programs fit a multiprocessor; one multiplies while the
    other stores. 220 tiles of 22 matrices are one wave; 176 tiles of 128 x 256 would be two.

    Mirrored bits are copies, also on the diagonal, for any order of a tensor core's sums.
    """
    row, column = tile_at(tl.program_id(0))
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
    factor = 1.0
    if norms.POWER > 0:
        factor /= power_of_norm(norms, matrix)
    i, j = row + tl.arange(0, SIDE)[:, None], column + tl.arange(0, SIDE)[None, :]
    value = factor * polynomial.c * sums + tl.where(i == j, factor * polynomial.a, 0.0)
    if squares is not None:
        weight = factor * polynomial.b
        value += weight * squares.load([matrix, row, column]).reshape(SIDE, SIDE).to(tl.float32)
    store_twice(value.to(products.dtype), products, matrix, row, column)


@triton.jit
def tile_at(tile):
    """Return row and column of a tile; tiles on and below the diagonal are counted row by row."""
    row = ((tl.sqrt_rn((8 * tile + 1).to(tl.float32)) - 1) / 2).to(tl.int32)
    return row, tile - row * (row + 1) // 2


@triton.jit
def power_of_norm(norms, matrix):
    """Return a matrix's norm to the power of 1 or 2, from the parts of its square."""
    part, first = tl.arange(0, norms.PADDED), norms.parts + matrix * norms.PARTS
    norm = tl.sqrt_rn(tl.sum(tl.load(first + part, mask=part < norms.PARTS, other=0.0))) + EPS
    return norm * norm if norms.POWER == 2 else norm


@triton.jit
def store_twice(tile, products, matrix, row, column):
    """Store a tile whose corner is (row, column), and its mirror image; each element once.

    Of a tile on the diagonal, the half below is mirrored.
    """
    SIDE: tl.constexpr = tile.shape[0]
    if row == column:
        line = tl.arange(0, SIDE)
        tile = tl.where(line[None, :] <= line[:, None], tile, tile.T)
    else:
        products.store([matrix, column, row], tile.T.reshape(1, SIDE, SIDE))
    products.store([matrix, row, column], tile.reshape(1, SIDE, SIDE))
