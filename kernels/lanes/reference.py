"""The combination of two lanes in plain PyTorch."""

from torch import Tensor


def lanes(
    first: Tensor,
    second: Tensor,
    attention: Tensor,
    mlp: Tensor,
    keep: Tensor,
    mix: Tensor,
    *,
    skip: Tensor | None = None,
    skip_weight: Tensor | None = None,
    first_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute ``kernels.lanes.Lanes`` in plain PyTorch."""
    dtype = first.dtype
    keep, mix = keep.to(dtype), mix.to(dtype)
    if skip is not None and skip_weight is not None:
        first = first + skip_weight.to(dtype) * skip
    if first_weight is not None:
        first = first_weight.to(dtype) * first
    return (
        keep[0] * first + mix[0, 0] * attention + mix[1, 0] * mlp,
        keep[1] * second + mix[0, 1] * attention + mix[1, 1] * mlp,
    )
