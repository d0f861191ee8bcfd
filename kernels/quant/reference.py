"""The compute copy of a weight, in the compute dtype, int6-faked when a lever says so."""

import torch
from torch import Tensor

INT6_LEVELS = 31


def quant(
    weight: Tensor,
    dtype: torch.dtype,
    qat: Tensor | None = None,
    min_step: float = 0.0,
    row_scale: Tensor | None = None,
) -> Tensor:
    """``weight`` rounded to ``dtype``, or, where ``qat`` > 0.5, to the int6 grid first.

    The grid is symmetric a row: step = max(max|row| / 31, min_step), codes in [-31, 31]. The
    gradient passes straight through (Bengio et al. 2013, arXiv:1308.3432), so the master weight
    learns under the rounding that its artifact will have.

    Args:
        weight: (..., rows, cols) fp32 master weight.
        dtype: of the copy.
        qat: 0-dim tensor, read on the device: no branch, no recompilation when it changes. None
            when a run can never switch it on, which costs nothing.
        min_step: floor of the step, as the artifact has it.
        row_scale: (..., rows) fp32, factor on each row after the grid: a scale on a product's
            output costs a pass over activations, on its weight's rows nothing.

    Returns:
        (..., rows, cols) in ``dtype``.
    """
    copy = weight if qat is None else weight + grid_change(weight, qat, min_step)
    if row_scale is not None:
        copy = row_scale[..., None] * copy
    return copy.to(dtype)


@torch.no_grad()
def grid_change(weight: Tensor, qat: Tensor, min_step: float) -> Tensor:
    """What takes ``weight`` to the int6 grid, where ``qat`` > 0.5, else zeros."""
    step = (weight.abs().amax(dim=-1, keepdim=True) / INT6_LEVELS).clamp_min(
        max(min_step, torch.finfo(torch.float32).tiny)
    )
    rounded = (weight / step).round().clamp(-INT6_LEVELS, INT6_LEVELS) * step
    return torch.where(qat > 0.5, rounded - weight, 0.0)
