"""The MLP with LeakyReLU^2, onto the residual stream."""

import torch.nn.functional as F
from torch import Tensor

from kernels.linear.reference import linear
from kernels.mlp import LEAST_LARGEST, bound
from kernels.operand import Operand, scaled_by


def mlp(
    x: Tensor | Operand,
    up: Tensor | Operand,
    down: Tensor | Operand,
    slope: float,
    stream: Tensor | None = None,
) -> Tensor:
    """Compute ``kernels.mlp.Mlp`` in plain PyTorch."""
    activated: Tensor | Operand = F.leaky_relu(linear(x, up), slope).square()
    if isinstance(x, Operand) and isinstance(up, Operand) and x.scale is not None:
        assert up.scale is not None
        largest = up.scale.amax().clamp_min(LEAST_LARGEST)
        scale = bound(slope) * (x.scale * largest).square()
        activated = scaled_by(scale, activated, activated)
    y = linear(activated, down)
    return y if stream is None else stream + y
