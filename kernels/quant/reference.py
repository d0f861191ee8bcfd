"""The compute copy of a weight, in the compute dtype, int6-rounded if a lever says so."""

import torch
from torch import Tensor

from kernels.operand import Operand, rounded

INT6_LEVELS = 31


def quant(
    weight: Tensor,
    dtype: torch.dtype,
    qat: Tensor | None = None,
    min_step: float = 0.0,
    row_scale: Tensor | None = None,
    fp8: bool = False,
) -> Operand:
    """Compute ``kernels.quant.Quant`` in plain PyTorch."""
    copy = weight if qat is None else weight + grid_change(weight, qat, min_step)
    if row_scale is not None:
        copy = row_scale[..., None] * copy
    return rounded(copy, copy.to(dtype)) if fp8 else Operand(copy.to(dtype))


@torch.no_grad()
def grid_change(weight: Tensor, qat: Tensor, min_step: float) -> Tensor:
    """Return the difference from ``weight`` to its int6 grid if ``qat`` > 0.5, else zeros."""
    step = (weight.abs().amax(dim=-1, keepdim=True) / INT6_LEVELS).clamp_min(
        max(min_step, torch.finfo(torch.float32).tiny)
    )
    rounded = (weight / step).round().clamp(-INT6_LEVELS, INT6_LEVELS) * step
    return torch.where(qat > 0.5, rounded - weight, 0.0)
