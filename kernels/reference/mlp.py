"""Projections, and the MLP with LeakyReLU^2."""

import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: x (..., in), weight (out, in) -> (..., out)."""
    return F.linear(x, weight)


def mlp(x: Tensor, up: Tensor, down: Tensor, slope: float) -> Tensor:
    """``leaky_relu(x @ up.T, slope)^2 @ down.T``.

    ReLU^2 is from Primer (So et al. 2021, arXiv:2109.08668); the leak, from parameter-golf, keeps a
    gradient on the negative side.

    Args:
        x: (B, T, C).
        up: (M, C).
        down: (C, M).
        slope: of the activation's negative side, before the square.
    """
    return F.linear(F.leaky_relu(F.linear(x, up), slope).square(), down)
