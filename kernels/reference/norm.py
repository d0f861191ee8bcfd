"""All that lies between two matrix products of a block: residuals, mixing and RMSNorm."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def norm(
    x: Tensor,
    *,
    scale: float,
    eps: float,
    branch: Tensor | None = None,
    branch_scale: Tensor | None = None,
    skip: Tensor | None = None,
    skip_weight: Tensor | None = None,
    x0: Tensor | None = None,
    mix: Tensor | None = None,
    keep_stream: bool = True,
) -> tuple[Any, Any, Tensor]:
    """Residual + branch, U-net skip, mix with the input embedding, RMSNorm.

        stream = x + branch_scale * branch                    (x without a branch)
        mixed  = mix[0] * (stream + skip_weight * skip) + mix[1] * x0
        normed = scale * mixed / sqrt(mean(mixed^2) + eps)

    It is one operation because its parts move the same tensors: a kernel reads each input once and
    writes each output once.

    Args:
        x: (B, T, C) residual stream.
        scale: factor on the normed output, 1/sqrt(layer + 1) where LN scale is on.
        eps: added to the mean square.
        branch: (B, T, C) output of attention or MLP, with branch_scale (C,) fp32.
        skip: (B, T, C) an encoder layer's output, with skip_weight (C,) fp32.
        x0: (B, T, C) the embedded input, with mix (2, C) fp32.
        keep_stream: False where nobody reads the stream: a kernel then does not write it. It comes
            back as None, and so does mixed where it is the stream.

    Returns:
        (stream, mixed, normed), each (B, T, C) in x's dtype. Without skip and mix, mixed is stream.
    """
    stream = x
    if branch is not None and branch_scale is not None:
        stream = x + branch_scale.to(x.dtype) * branch
    mixed = stream
    if skip is not None and skip_weight is not None:
        mixed = mixed + skip_weight.to(x.dtype) * skip
    if x0 is not None and mix is not None:
        mixed = mix[0].to(x.dtype) * mixed + mix[1].to(x.dtype) * x0
    normed = F.rms_norm(mixed, (x.size(-1),), eps=eps) * scale
    if keep_stream:
        return stream, mixed, normed
    return None, None if mixed is stream else mixed, normed
