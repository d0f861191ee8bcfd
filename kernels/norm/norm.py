"""RMSNorm of the residual stream, in one pass forward and one backward.

    normed = scale * x r,  r = 1 / sqrt(mean(x^2) + eps)
    dx     = grad_x + scale r (grad_normed - n mean(grad_normed n)),  n = normed / scale

Saved are r of each row and the output, which the next product saves too. The stream is not saved,
because the products that follow add to it in place.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.fp8 import Rounded, new_rounded, store_rounded
from kernels.common.launch import Launch
from kernels.common.rows import (
    column_indices,
    load,
    load_row_values,
    row_count,
    row_indices,
    row_mean,
    row_tile,
    store,
    store_row_values,
)
from kernels.operand import Operand

# Compiled, not timed (registers): 4 rows 32 and 48; 16 rows with 8 warps 48 and 64. A plain
# (rows, 512) tile splits each row over two warps, with a barrier for every sum.
LAUNCH = {
    "forward": Launch(rows=8, warps=4),  # 48 registers
    "backward": Launch(rows=8, warps=4),  # 64 registers
}


def norm(x: Tensor, *, scale: float, eps: float, fp8: bool = False) -> tuple[Tensor, Any]:
    """Compute ``kernels.norm.Norm`` in one pass.

    x is marked as modified in place: otherwise autograd would return a view, and PyTorch forbids
    in-place additions to such a view.
    """
    x, normed, *rounded = Norm.apply(x, scale, eps, fp8)  # pyright: ignore[reportGeneralTypeIssues]
    return x, Operand(*rounded, normed) if fp8 else normed


class Norm(torch.autograd.Function):
    """Save the output and 1/rms of each row (N,) fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, eps: float, fp8: bool) -> tuple[Tensor, ...]:
        rounded = new_rounded(x) if fp8 else None
        normed, inverse_rms = launch_forward(x.contiguous(), rounded, scale, eps)
        ctx.mark_dirty(x)
        ctx.save_for_backward(normed, inverse_rms)
        ctx.set_materialize_grads(False)
        ctx.scale = scale
        if rounded is None:
            return x, normed
        ctx.mark_non_differentiable(*rounded)
        return x, normed, *rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor | None, grad_normed: Tensor | None, *_: None):  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad_normed is None:
            return grad_x, None, None, None
        grad_x = None if grad_x is None else grad_x.contiguous()
        return launch_backward(grad_x, grad_normed.contiguous(), ctx), None, None, None


def launch_forward(
    x: Tensor, rounded: Rounded | None, scale: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Return normed as x, and 1/rms (N,) fp32; ``rounded`` is written."""
    rows, launch = row_count(x), LAUNCH["forward"]
    normed = torch.empty_like(x)
    inverse_rms = torch.empty(rows, dtype=torch.float32, device=x.device)
    norm_forward[(triton.cdiv(rows, launch.rows),)](
        x,
        normed,
        inverse_rms,
        rounded,
        rows,
        scale,
        eps,
        row_tile(x.size(-1), launch.rows),
        **launch.options,
    )
    return normed, inverse_rms


def launch_backward(grad_x: Tensor | None, grad_normed: Tensor, ctx: Any) -> Tensor:
    """Return the gradient of the argument x."""
    rows, launch = row_count(grad_normed), LAUNCH["backward"]
    into_x = torch.empty_like(grad_normed)
    norm_backward[(triton.cdiv(rows, launch.rows),)](
        *ctx.saved_tensors,
        grad_x,
        grad_normed,
        into_x,
        rows,
        ctx.scale,
        row_tile(grad_normed.size(-1), launch.rows),
        **launch.options,
    )
    return into_x


@triton.jit
def norm_forward(x, normed, inverse_rms, rounded, rows_total, scale, eps, tile):
    """Write normed (N, C) and inverse_rms (N,) fp32 of x (N, C), and ``Rounded`` unless None.

    It moves 2 tensors, and half of one in fp8. At 98,304 x 512 in bf16 a tensor is 100.7 MB.
    """
    rows, columns = row_indices(tl.program_id(0) * tile.ROWS, tile), column_indices(tile)
    offsets, mask = rows * tile.C + columns, (rows < rows_total) & (columns < tile.C)
    value = load(x, offsets, mask)
    squares = row_mean(value * value, tile)
    by_rms = tl.rsqrt(squares + eps)
    store(normed, offsets, value * (by_rms * scale), mask)
    store_row_values(inverse_rms, rows, by_rms, rows_total)
    if rounded is not None:
        norm = tl.sqrt(squares * tile.C)
        store_rounded(rounded, rows, offsets, value, norm, by_rms * scale, rows_total, mask)


@triton.jit
def norm_backward(normed, inverse_rms, grad_x, grad_normed, into_x, rows_total, scale, tile):
    """Write ``into_x = grad_x + scale r (grad_normed - n mean(grad_normed n))``.

    n is normed / scale, r is inverse_rms; grad_x None counts as zero. It moves 4 tensors, 3 without
    grad_x.
    """
    rows, columns = row_indices(tl.program_id(0) * tile.ROWS, tile), column_indices(tile)
    offsets, mask = rows * tile.C + columns, (rows < rows_total) & (columns < tile.C)
    grad, scaled = load(grad_normed, offsets, mask), load(normed, offsets, mask)
    if grad_x is not None:
        passed = load(grad_x, offsets, mask)
    by_rms = load_row_values(inverse_rms, rows, rows_total)
    projection = row_mean(grad * scaled, tile) / (scale * scale)
    grad = normed_gradient(grad, scaled, projection, by_rms * scale)
    if grad_x is not None:
        grad += passed
    store(into_x, offsets, grad, mask)


@triton.jit
def normed_gradient(grad, x, projection, factor):
    """Return the gradient of a norm's input from ``grad`` of its output, also for ``mix_norm``.

    projection (ROWS, 1, 1) is mean(grad x), scaled so that ``x * projection`` is grad's component
    in x's direction, on which a norm's output does not depend. factor (ROWS, 1, 1) is scale r.
    """
    return (grad - x * projection) * factor
