"""All that lies between two matrix products of a block: RMSNorm, and what a layer mixes first."""

import torch.nn.functional as F
from torch import Tensor


def norm(x: Tensor, *, scale: float, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of the residual stream, and the stream handed on.

        normed = scale * x / sqrt(mean(x^2) + eps)

    Who adds to x next should add to the one returned: both of x's gradients then meet here, and
    are added in the pass that the norm's gradient takes anyway.

    Args:
        x: (B, T, C).
        scale: factor on the normed output, 1/sqrt(layer + 1) where LN scale is on.
        eps: added to the mean square.

    Returns:
        (x, normed), each (B, T, C) in x's dtype.
    """
    return x, F.rms_norm(x, (x.size(-1),), eps=eps) * scale


def mix_norm(
    stream: Tensor,
    x0: Tensor,
    mix: Tensor,
    *,
    scale: float,
    eps: float,
    skip: Tensor | None = None,
    skip_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A layer's entry: U-net skip, mix with the input embedding, RMSNorm.

        mixed  = mix[0] * (stream + skip_weight * skip) + mix[1] * x0
        normed = scale * mixed / sqrt(mean(mixed^2) + eps)

    It is one operation because its parts move the same tensors: a kernel reads each input once and
    writes each output once. x0 is handed on to the next layer, and the stream to the layer that
    skips back to it, so that their gradients come as a chain and meet in the pass that is made
    here, not in additions of their own.

    Args:
        stream: (B, T, C) what the layer before made of the residual stream.
        x0: (B, T, C) the embedded input.
        mix: (2, C) fp32.
        scale: factor on the normed output.
        eps: added to the mean square.
        skip: (B, T, C) an encoder layer's output, with skip_weight (C,) fp32.

    Returns:
        (mixed, normed, stream, x0), each (B, T, C) in the stream's dtype; the first two are new.
    """
    dtype = stream.dtype
    mixed = stream
    if skip is not None and skip_weight is not None:
        mixed = mixed + skip_weight.to(dtype) * skip
    mixed = mix[0].to(dtype) * mixed + mix[1].to(dtype) * x0
    _, normed = norm(mixed, scale=scale, eps=eps)
    return mixed, normed, stream, x0
