"""The MLP onto the residual stream, LeakyReLU^2 fused into the two products next to it.

    a  = leaky(h)^2,  h = x @ up.T            our kernel: h stays in registers
    y  = stream + a @ down.T                  cuBLAS, in stream's memory
    dh = (dy @ down) * 2 leaky(h) leaky'(h)   our kernel: dy @ down stays in registers
    ddown = dy.T @ a,  dup = dh.T @ x         cuBLAS, on a side stream, overlapping with dx
    dx = dh @ up                              cuBLAS

In fp8 the first two products take e4m3. The first writes a in bf16, too, and all gradients are
products in bf16 (``kernels.mlp.fp8``).

The backward pass needs a and the sign of h only, one bit each, because

    2 leaky(h) leaky'(h) = 2 sqrt(a)             if h >= 0
                         = -2 slope sqrt(a)      if h < 0.

Saving h instead costs a second tensor of that size, because a is an operand of two cuBLAS products
and must be written anyway. cuBLAS cannot activate h while it loads it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.streams import Side
from kernels.mlp.products import activated_product, activation_gradient
from kernels.operand import Operand, in_fp8, sourced


def mlp(
    x: Tensor | Operand,
    up: Tensor | Operand,
    down: Tensor | Operand,
    slope: float,
    stream: Tensor | None = None,
) -> Tensor:
    """Compute ``kernels.mlp.Mlp`` in stream's memory.

    Rows of C and of M elements must be multiples of 16 bytes (TMA). The NanoGPT speedrun also fuses
    LeakyReLU^2 into a product's epilogue and saves the activation for the backward pass.
    """
    rounded = (x, up, down) if in_fp8(x, up, down) else None
    return MLP.apply(*map(sourced, (x, up, down)), slope, stream, rounded)  # pyright: ignore[reportReturnType]


class MLP(torch.autograd.Function):
    """Save x, the weights, a (302 MB at 98,304 x 1,536 in bf16) and the signs (19 MB)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        up: Tensor,
        down: Tensor,
        slope: float,
        stream: Tensor | None,
        rounded: tuple[Operand, Operand, Operand] | None,
    ) -> Tensor:
        x_NC, y = x.reshape(-1, x.size(-1)), None
        if rounded is None:
            activated, signs = activated_product(x_NC, up, slope)
        else:
            from kernels.mlp.fp8 import forward  # a contest's file may leave it out

            y, activated, signs = forward(*rounded, slope, x.dtype, stream)
        ctx.save_for_backward(x_NC, up, down, activated, signs)
        ctx.slope = slope
        if stream is not None:
            ctx.mark_dirty(stream)
        if y is not None:
            return y.view(x.shape) if stream is None else y
        if stream is None:
            return (activated @ down.T).view(x.shape)
        stream.view(x_NC.shape).addmm_(activated, down.T)
        return stream

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_NC, up, down, activated, signs = ctx.saved_tensors
        dy_NC = dy.reshape(x_NC.shape)
        needs_x, needs_up, needs_down, _, needs_stream, _ = ctx.needs_input_grad
        with Side(dy.device) as side:
            dh = None
            if needs_x or needs_up:
                dh = activation_gradient(dy_NC, down, activated, signs, ctx.slope)
            # Start d_down after dh. The kernel of dh occupies every multiprocessor, so running both
            # at once would leave some of them idle at the end.
            d_down = side.product(dy_NC.T, activated) if needs_down else None
            d_up = side.product(dh.T, x_NC) if needs_up and dh is not None else None
            dx = (dh @ up).view(dy.shape) if needs_x and dh is not None else None
        return dx, d_up, d_down, None, dy if needs_stream else None, None
