"""Constants and small functions that several kernels use."""

# pyright: basic
import math

import triton
import triton.language as tl

LN_2 = tl.constexpr(math.log(2.0))
LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def halves(x):
    """Return the left and the right half of x's columns; no value changes its thread."""
    pair = x.reshape(x.shape[0], 2, x.shape[1] // 2).permute(0, 2, 1)
    return tl.split(pair)
