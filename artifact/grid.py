"""The grid that weights are rounded to: symmetric integer codes, one step size a row.

A row is stored as ``code * step``. Rate-distortion theory (Gish and Pierce, "Asymptotically
efficient quantizing", 1968) says that a *uniform* step followed by entropy coding is within 0.25
bit a weight of the best possible code. So the step alone decides a row's bytes and its error. The
number of bits only bounds the codes, and a row with small codes takes few bytes.
"""

import torch
from torch import Tensor

SMALLEST_STEP = 2.0**-18  # keeps a row of zeros from dividing by zero
LARGEST_STEP = 63488.0  # the largest that 4 bits of mantissa hold in fp16
SMALLEST_COARSE, LARGEST_COARSE = 2.0**-14, 57344.0  # normal fp16 numbers of 2 bits of mantissa
DROPPED = 6  # bits of fp16's mantissa that a step by standard deviation leaves zero


def top_code(bits: int) -> int:
    """Return ``top``: codes of ``bits`` lie in [-top, top]."""
    return 2 ** (bits - 1) - 1


def row_steps(
    weight: Tensor, bits: int, clip: float = 0.0, min_step: float = 0.0, stretch: float = 1.0
) -> Tensor:
    """Return the step of each row: ``max(reach / top, min_step)``.

    With ``clip`` 0 the reach is ``stretch`` times the row's largest magnitude, and with a stretch
    of 1 the grid is the one that training fakes (`kernels.quant.autograd`). Otherwise it is
    ``clip`` standard deviations (about zero), as in parameter-golf PR #1855. The codes of all rows
    then have the same spread, whatever their outliers, and ``clip`` sets the bits of a weight. Such
    a step has 4 bits of mantissa, because more would cost bytes without a gain.

    Args:
        weight: (..., rows, cols), floating point, finite, cols > 0.
        bits: 2 to 8.
        clip: standard deviations of a row that its codes reach; 0: its largest magnitude.
        min_step: no step is finer than this.
        stretch: if ``clip`` is 0: a factor above 1, which leaves the outermost codes unused.

    Returns:
        (..., rows) fp16.

    Raises:
        ValueError: bits out of range, or a weight without rows.
    """
    if not 2 <= bits <= 8 or weight.ndim < 2:
        raise ValueError(f"cannot quantise shape {tuple(weight.shape)} to {bits} bits a row")
    weight = weight.detach().float()
    root_mean_square, largest = weight.square().mean(dim=-1).sqrt(), weight.abs().amax(dim=-1)
    reach = clip * root_mean_square if clip else stretch * largest
    step = (reach / top_code(bits)).clamp(max(min_step, SMALLEST_STEP), LARGEST_STEP).half()
    if not clip:
        return step
    return _rounded(step, DROPPED)


def coarse(step: Tensor) -> Tensor:
    """Return positive numbers as fp16 with 2 bits of mantissa, so that one byte holds each."""
    return _rounded(step.clamp(SMALLEST_COARSE, LARGEST_COARSE).half(), 8)


def _rounded(step: Tensor, dropped: int) -> Tensor:
    """Round positive fp16 numbers so that the last bits of their mantissa are zero."""
    half = 1 << (dropped - 1)
    return ((step.view(torch.int16) + half) >> dropped << dropped).view(torch.float16)


def nearest(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """Return the nearest codes (..., rows, cols) int8, given the step of each row."""
    top = top_code(bits)
    return (weight.float() / step.float().unsqueeze(-1)).round_().clamp_(-top, top).to(torch.int8)


def dequantise(codes: Tensor, step: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the weights of ``codes`` (..., rows, cols) and ``step`` (..., rows).

    The product is formed in fp32, where it is exact, and rounded once to ``dtype``.
    """
    return (codes.float() * step.float().unsqueeze(-1)).to(dtype)
