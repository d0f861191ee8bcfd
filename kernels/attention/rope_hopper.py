"""Norm, gain and rope in the registers of a product, in attention's Hopper kernels."""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.attention.rope import gain_limit


@gluon.jit
def unit(v):
    """Return v / |v| of rows (rows, D), fp32, and 1 / |v|, as torch.nn.functional.normalize."""
    v = v.to(gl.float32)
    inverse = 1.0 / gl.maximum(gl.sqrt(gl.sum(v * v, 1)), 1e-12)
    return v * gl.expand_dims(inverse, 1), inverse


@gluon.jit
def query_scale(gain, D: gl.constexpr):
    """As ``kernels.attention.rope.query_scale``."""
    gain = gl.minimum(gl.maximum(gain, -gain_limit(D)), gain_limit(D))
    gain = gl.where(gain < 0, gl.minimum(gain, -1e-30), gl.maximum(gain, 1e-30))
    return gain * (1.4426950408889634 / D**0.5)


@gluon.jit
def angles(x, first_row, length, rope, GROUP: gl.constexpr):
    """Return cos and sin with which ``rotate`` rotates x (64, 64).

    The rows of x begin at ``first_row``; each position has GROUP of them. Load angles before a
    barrier or a store, because otherwise they wait for it.
    """
    PAIRS: gl.constexpr = rope.PAIRS
    first, _ = halves(rotated_part(x, PAIRS))
    layout: gl.constexpr = first.type.layout
    row = first_row + gl.arange(0, first.shape[0], gl.SliceLayout(1, layout))
    pair = gl.arange(0, PAIRS, gl.SliceLayout(0, layout))
    position = gl.minimum(row // GROUP, length - 1)
    offset = gl.expand_dims(position * PAIRS, 1) + gl.expand_dims(pair, 0)
    return gl.load(rope.table + offset), gl.load(rope.table + rope.stride + offset)


@gluon.jit
def rotated_part(x, PAIRS: gl.constexpr):
    """Return the first 2 * PAIRS columns of x (64, 64)."""
    if PAIRS < 32:
        x, _ = halves(x)
    if PAIRS < 16:
        x, _ = halves(x)
    return x


@gluon.jit
def rotate(x, cos, sin, PAIRS: gl.constexpr):
    """Rotate the first 2 * PAIRS dims of x (64, 64) fp32 by ``angles``.

    PAIRS is a multiple of 8. Both of a pair are then in one thread's registers in a product's
    layout, and cutting the row into pieces moves nothing.
    """
    layout: gl.constexpr = x.type.layout
    if PAIRS == 8:
        left, right = halves(x)
        first, second = halves(left)
        x = whole(whole(rotate_pairs(first, cos, sin), second), right)
    elif PAIRS == 16:
        left, right = halves(x)
        x = whole(rotate_pairs(left, cos, sin), right)
    elif PAIRS == 32:
        x = rotate_pairs(x, cos, sin)
    return gl.convert_layout(x, layout)


@gluon.jit
def halves(x):
    """Return the left and the right half of the columns of x (rows, columns)."""
    return gl.split(x.reshape([x.shape[0], 2, x.shape[1] // 2]).permute((0, 2, 1)))


@gluon.jit
def whole(left, right):
    """Return the matrix that ``halves`` cut."""
    right = gl.convert_layout(right, left.type.layout)
    return gl.join(left, right).permute((0, 2, 1)).reshape([left.shape[0], 2 * left.shape[1]])


@gluon.jit
def rotate_pairs(x, cos, sin):
    """Rotate all columns of x, whose halves are the pairs."""
    first, second = halves(x)
    return whole(first * cos + second * sin, second * cos - first * sin)
