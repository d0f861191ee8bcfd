"""Rows rounded to fp8 where a kernel has them in registers."""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.rows import store_row_values
from kernels.operand import FP8, LARGEST_FP8, LEAST_SCALE

LARGEST, LEAST = tl.constexpr(LARGEST_FP8), tl.constexpr(LEAST_SCALE)


class Rounded(NamedTuple):
    """Values and scales of an ``Operand``, to be written."""

    e4m3: Any
    """(N, C) e4m3."""
    scale: Any
    """(N,) fp32."""


def new_rounded(x: Tensor) -> Rounded:
    """Return memory for values and scales of x (..., C)."""
    return Rounded(
        torch.empty(x.shape, dtype=FP8, device=x.device),
        torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device),
    )


@triton.jit
def store_rounded(rounded, rows, offsets, value, norm, factor, rows_total, mask):
    """Store a tile's ``value * factor`` in fp8; value's norms and factor (ROWS, 1, 1)."""
    scale = tl.maximum(norm * tl.abs(factor) / LARGEST, LEAST)
    values = (value * (factor / scale)).to(rounded.e4m3.dtype.element_ty)
    tl.store(rounded.e4m3 + offsets, values, mask=mask)
    store_row_values(rounded.scale, rows, scale, rows_total)
