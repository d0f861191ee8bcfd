"""RMSNorm, and a layer's entry, in plain PyTorch."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kernels.operand import rounded


def norm(x: Tensor, *, scale: float, eps: float, fp8: bool = False) -> tuple[Tensor, Any]:
    """Compute ``kernels.norm.Norm`` in plain PyTorch."""
    normed = F.rms_norm(x, (x.size(-1),), eps=eps) * scale
    return x, rounded(normed, normed) if fp8 else normed


def mix_norm(
    stream: Tensor,
    x0: Tensor,
    mix: Tensor,
    *,
    scale: float,
    eps: float,
    skip: Tensor | None = None,
    skip_weight: Tensor | None = None,
    gate_weight: Tensor | None = None,
    normed_only: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Compute ``kernels.norm.MixNorm`` in plain PyTorch."""
    dtype = stream.dtype
    mixed = stream
    if skip is not None and skip_weight is not None:
        mixed = mixed + skip_weight.to(dtype) * skip
    mixed = mix[0].to(dtype) * mixed + mix[1].to(dtype) * x0
    normed = F.rms_norm(mixed, (mixed.size(-1),), eps=eps) * scale
    gate = None
    if gate_weight is not None:
        gate = F.linear(normed[..., : gate_weight.size(1)], gate_weight.to(dtype))
    return mixed, normed, stream, x0, gate
