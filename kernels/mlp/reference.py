"""The MLP with LeakyReLU^2, onto the residual stream."""

import torch.nn.functional as F
from torch import Tensor


def mlp(x: Tensor, up: Tensor, down: Tensor, slope: float, stream: Tensor | None = None) -> Tensor:
    """Compute ``kernels.mlp.Mlp`` in plain PyTorch."""
    y = F.linear(F.leaky_relu(F.linear(x, up), slope).square(), down)
    return y if stream is None else stream + y
