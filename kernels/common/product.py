"""One tile of a product of two matrices that TMA descriptors describe."""

# pyright: basic
import triton
import triton.language as tl


@triton.jit
def corner(tile, column_tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the first row and column of a tile; tiles are counted along rows of tiles."""
    return tile // column_tiles * ROWS, tile % column_tiles * COLUMNS


@triton.jit
def tile_product(
    x_NK,
    weight,
    row,
    column,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return a tile (ROWS, COLUMNS) of ``x @ weight.T``, or of ``x @ weight``, summed in fp32.

    x (N, K); weight (O, K) if ``TRANSPOSED``, else (K, O): TMA descriptors. ``width`` is K.
    """
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for depth in range(0, width, DEPTH):
        x = x_NK.load([row, depth])
        if TRANSPOSED:
            total = tl.dot(x, weight.load([column, depth]).T, total, input_precision=PRECISION)
        else:
            total = tl.dot(x, weight.load([depth, column]), total, input_precision=PRECISION)
    return total
