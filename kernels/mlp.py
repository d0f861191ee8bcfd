"""Projections, and the MLP with LeakyReLU^2 fused into the two products that meet it.

    a  = leaky(h)^2,  h = x @ up.T          Triton: h never leaves the registers
    y  = a @ down.T                         cuBLAS
    dh = (dy @ down) * 2 leaky(h) leaky'(h) Triton: da never leaves the registers
    dx = dh @ up,  dup = dh.T @ x,  ddown = dy.T @ a          cuBLAS

What is saved is a and the sign of h, one bit each, because

    2 leaky(h) leaky'(h) = 2 sqrt(a)             where h >= 0
                         = -2 slope sqrt(a)      where h < 0.

Saving h instead costs a second tensor of that size: cuBLAS wants a as an operand twice, so a must
be written as well. Activating h as it is loaded for a product takes both products from cuBLAS.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.mlp_products import activated_product, activation_gradient


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: x (..., in), weight (out, in) -> (..., out).

    PyTorch's own, forward and backward: cuBLAS runs these shapes at 564-652 TFLOP/s on an H200, no
    epilogue has anything to add, and its autograd already writes the weight's gradient contiguous,
    without a transposed copy. Writing that gradient in fp32 would gain nothing: autograd converts
    it back to the weight's dtype.
    """
    return F.linear(x, weight)


def mlp(x: Tensor, up: Tensor, down: Tensor, slope: float) -> Tensor:
    """``leaky_relu(x @ up.T, slope)^2 @ down.T``.

    Fusing LeakyReLU^2 into a product's epilogue, and keeping the activation for the backward pass,
    are known from the NanoGPT speedrun; keeping only signs beside it is not.

    Args:
        x: (..., C). Rows of C and of M elements must be multiples of 16 bytes (TMA).
        up: (M, C).
        down: (C, M).
        slope: of the activation's negative side, before the square; not negative.
    """
    return MLP.apply(x, up, down, slope)


class MLP(torch.autograd.Function):
    """Saves x, the weights, a (302 MB at the real size) and the signs (19 MB)."""

    @staticmethod
    def forward(ctx, x: Tensor, up: Tensor, down: Tensor, slope: float) -> Tensor:
        x_NC = x.reshape(-1, x.size(-1))
        activated, signs = activated_product(x_NC, up, slope)
        ctx.save_for_backward(x_NC, up, down, activated, signs)
        ctx.slope = slope
        return (activated @ down.T).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_NC, up, down, activated, signs = ctx.saved_tensors
        dy_NC = dy.reshape(x_NC.shape)
        needs_x, needs_up, needs_down, _ = ctx.needs_input_grad
        dx = d_up = None
        if needs_x or needs_up:
            dh = activation_gradient(dy_NC, down, activated, signs, ctx.slope)
            dx = (dh @ up).view(dy.shape) if needs_x else None
            d_up = dh.T @ x_NC if needs_up else None
        d_down = dy_NC.T @ activated if needs_down else None
        return dx, d_up, d_down, None
