"""The MLP with LeakyReLU^2, onto the residual stream."""

import torch.nn.functional as F
from torch import Tensor


def mlp(x: Tensor, up: Tensor, down: Tensor, slope: float, stream: Tensor | None = None) -> Tensor:
    """``stream + leaky_relu(x @ up.T, slope)^2 @ down.T``.

    ReLU^2 is from Primer (So et al. 2021, arXiv:2109.08668); the leak, from parameter-golf, keeps a
    gradient on the negative side.

    Args:
        x: (B, T, C).
        up: (M, C).
        down: (C, M).
        slope: of the activation's negative side, before the square.
        stream: (B, T, C), which a kernel adds to in its own memory; None: the product alone.
    """
    y = F.linear(F.leaky_relu(F.linear(x, up), slope).square(), down)
    return y if stream is None else stream + y
