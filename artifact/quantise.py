"""Symmetric integer quantisation, one step size a row.

A row is coded as ``code * scale``. Two things decide how many bytes that costs and how much it
hurts: how coarse the step is, and how well the codes compress afterwards.

Rate-distortion theory (Gish and Pierce, "Asymptotically efficient quantizing", 1968) says that at
all but the lowest rates a *uniform* step followed by entropy coding is within 0.25 bit a weight of
the best possible code, and that every weight should then share one step: a wide row simply gets
longer codes. ``min_step`` brings this about. The contest system this one grew from (parameter-golf
PR #1081) never steps finer than 1/31 for int6, so narrow rows use few of their 63 codes, cost few
bits after LZMA, and 27 M parameters fit where 27 M * 6 bits = 20 MB would not. Finer steps buy
precision in rows that need it least.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

PERCENTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
SMALLEST_STEP = 2.0**-24  # the smallest positive fp16: keeps a row of zeros from dividing by zero
LARGEST_STEP = 65504.0  # the largest finite fp16


class Quantised(NamedTuple):
    """A weight as integers.

    Attributes:
        codes: int8, the weight's shape (..., rows, cols).
        scale: fp16 (..., rows): the step of each row.
    """

    codes: Tensor
    scale: Tensor


def quantise_rows(
    weight: Tensor,
    bits: int,
    percentiles: tuple[float, ...] = PERCENTILES,
    min_step: float = 0.0,
) -> Quantised:
    """Code each row with the clip percentile that gives it the least squared error.

    Clipping the largest magnitudes of a heavy-tailed row makes its step finer for all others. The
    error is measured with the step as stored, that is, after rounding to fp16.

    Args:
        weight: (..., rows, cols), floating point, finite.
        bits: 2 to 8; codes lie in [-(2**(bits-1) - 1), 2**(bits-1) - 1].
        percentiles: quantiles of a row's magnitudes to try as its clip; ties go to the first.
        min_step: no step is finer than this (itself rounded to fp16).

    Raises:
        ValueError: bits out of range, or a weight without rows.
    """
    if not 2 <= bits <= 8 or weight.ndim < 2:
        raise ValueError(f"cannot quantise shape {tuple(weight.shape)} to {bits} bits a row")
    top = 2 ** (bits - 1) - 1
    weight = weight.detach().float()
    best, *others = _steps(weight, percentiles, top, min_step)
    least = _squared_error(weight, best, top)
    for step in others:
        error = _squared_error(weight, step, top)
        better = error < least
        best, least = torch.where(better, step, best), torch.where(better, error, least)
    return Quantised(_round(weight, best, top).to(torch.int8), best)


def dequantise(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight that ``codes`` (..., rows, cols) and ``scale`` (..., rows) stand for.

    The product is formed in fp32, where it is exact, and rounded once to ``dtype``.
    """
    return (codes.float() * scale.float().unsqueeze(-1)).to(dtype)


def _steps(
    weight: Tensor, percentiles: tuple[float, ...], top: int, min_step: float
) -> list[Tensor]:
    """The fp16 step (..., rows) of each percentile, interpolated as ``torch.quantile`` does.

    One sort serves all percentiles; ``torch.quantile`` itself refuses more than 16 M elements.
    """
    magnitudes = weight.abs().sort(dim=-1).values
    last = weight.shape[-1] - 1
    floor = max(min_step, SMALLEST_STEP)
    steps = []
    for percentile in percentiles:
        place = percentile * last
        below, above = magnitudes[..., math.floor(place)], magnitudes[..., math.ceil(place)]
        clip = torch.lerp(below, above, place - math.floor(place))
        steps.append((clip / top).clamp(floor, LARGEST_STEP).half())
    return steps


def _round(weight: Tensor, step: Tensor, top: int) -> Tensor:
    """The nearest code of each weight, as floats."""
    return (weight / step.float().unsqueeze(-1)).round_().clamp_(-top, top)


def _squared_error(weight: Tensor, step: Tensor, top: int) -> Tensor:
    """Squared error of each row, (..., rows) fp64."""
    restored = _round(weight, step, top).mul_(step.float().unsqueeze(-1))
    return restored.sub_(weight).square_().sum(dim=-1, dtype=torch.float64)
