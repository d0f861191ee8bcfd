"""The MLP with LeakyReLU^2, onto the residual stream."""

import torch.nn.functional as F
from torch import Tensor

from kernels.operand import Operand, dense


def mlp(
    x: Tensor,
    up: Tensor | Operand,
    down: Tensor | Operand,
    slope: float,
    stream: Tensor | None = None,
) -> Tensor:
    """Compute ``kernels.mlp.Mlp`` in plain PyTorch."""
    up, down = dense(up, x.dtype), dense(down, x.dtype)
    y = F.linear(F.leaky_relu(F.linear(x, up), slope).square(), down)
    return y if stream is None else stream + y
