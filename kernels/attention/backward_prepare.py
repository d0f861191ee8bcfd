"""Attention's backward pass, first part: gate, XSA and delta.

With y the output as returned, dy its gradient, s = sigmoid(gate) (1 without), u = v / |v|,
v_projection = the softmax's output . u, and everything a vector of one row:

    dgate = dy . y (1 - s)
    dout  = s (dy - (dy . u) u)             the gradient of the softmax's output
    delta = dout . (y / s + v_projection u) is (dout . output) of the softmax; dy . y as well
          = dout . v                        if a row sees no other key
    dv    = -((dy . u) y + v_projection dout) / |v|     over the heads of a group: XSA's part

dy, y (B, T, H, D), v (B, T, G, D), gate and dgate (B, T, H), dout as y, dv as v, in their dtype;
delta, v_projection (B, G, padded T * GROUP) fp32.

If one key has all the weight, softmax's gradient is zero, but only if delta is computed from the
rounded dout that the products read. Hence not dy . y, which makes the gain's gradient less exact as
well (docs/log.md). y also has the rounding of a weight, so the last line takes v instead.

FlashAttention-2 also has a separate kernel for delta. The product kernels need the registers for
their loops, and both would read dy, y and dout.

At 98,304 tokens and 8/4 heads of 64 it reads dy and y (201 MB). With XSA it also reads v and writes
dout and dv (201 MB).
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportUnboundVariable=false
# pyright: reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.saved import Saved
from kernels.attention.visible import load_rows, problem_argument, unit
from kernels.common.launch import Launch

ELEMENTS = 2048  # of a head's tile: 16 a thread of each of six tensors
LAUNCH = {head_dim: Launch(rows=ELEMENTS // head_dim, warps=4) for head_dim in (16, 32, 64, 128)}

TINY_SHARE = tl.constexpr(1e-18)  # A gate this near to shut leaves a delta of zero, not of 0 / 0.


class Inputs(NamedTuple):
    """Operands, as the module names them.

    dy is None if the kernel makes it, v_projection without XSA; v_stride is the elements between
    tokens of v.
    """

    dy: Any
    y: Any
    v: Any
    gate: Any
    v_projection: Any
    v_stride: Any


class Outputs(NamedTuple):
    """Results, as the module names them.

    dout is None if it is dy; dv_stride is the elements between tokens of dv.
    """

    dgate: Any
    dout: Any
    delta: Any
    dv: Any
    dv_stride: Any


class Gradients(NamedTuple):
    """Results of ``backward_prepare``: see there."""

    dgate: Tensor | None
    dout: Tensor | None
    delta: Tensor
    dv: Tensor


def backward_prepare(saved: Saved, dy: Tensor, gradients: Gradients) -> None:
    """Launch ``backward_prepare_kernel``, which writes ``gradients``.

    Args:
        saved: the forward pass's operands and results.
        dy: (B, T, H, D), contiguous.
        gradients: dgate (B, T, H), None without a gate; dout (B, T, H, D), None if it is dy; delta
            (B, G, padded rows) fp32; dv (B, T, G, D), tokens ``stride(1)`` apart, not written
            without XSA.
    """
    (B, T, _, D), v = saved.y.shape, saved.v
    dgate, dout, delta, dv = gradients
    launch = LAUNCH[D]
    backward_prepare_kernel[(triton.cdiv(B * T, launch.rows), v.size(2))](
        Inputs(dy, saved.y, v, saved.gate, saved.v_projection, v.stride(1)),
        problem_argument(saved),
        Outputs(dgate, dout, delta, dv, dv.stride(1)),
        B * T,
        delta.size(2),
        D=D,
        ROWS=launch.rows,
        num_warps=launch.warps,
    )


@triton.jit
def backward_prepare_kernel(
    inputs, problem, outputs, tokens, stats_stride, D: tl.constexpr, ROWS: tl.constexpr
):
    """Compute dgate, dout, delta and XSA's part of dv for ROWS tokens and one group of heads."""
    G: tl.constexpr = problem.G
    GROUP: tl.constexpr = problem.GROUP
    # Divisions in 32 bits: in 64 they take longer than the rest.
    token, head = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    valid = token < tokens
    position = token % problem.length
    head_index = (token // problem.length * G + head).to(tl.int64)
    first_stat = head_index * stats_stride + position * GROUP
    token = token.to(tl.int64)
    first_line = token * (G * GROUP) + head * GROUP
    dim = tl.arange(0, D)[None, :]
    offset = (token * inputs.v_stride + head * D)[:, None] + dim
    start = 0
    if problem.documents is not None:
        start = tl.load(problem.documents + token, mask=valid, other=0)
    alone = position == start
    needed = valid & alone if inputs.v_projection is None else valid
    direction = tl.load(inputs.v + offset, mask=needed[:, None], other=0.0).to(tl.float32)
    if inputs.v_projection is not None:
        direction, inverse = unit(direction)
        dv = tl.zeros((ROWS, D), tl.float32)
    for member in tl.static_range(GROUP):
        line, stat = first_line + member, first_stat + member
        lines = tokens * (G * GROUP)
        dy = load_rows(inputs.dy, line, D, lines, True, D)
        y = load_rows(inputs.y, line, D, lines, True, D).to(tl.float32)
        gradient = dy.to(tl.float32)
        if inputs.v_projection is not None:
            taken = tl.sum(gradient * direction, 1)
            dv -= taken[:, None] * y
            gradient -= taken[:, None] * direction
        if inputs.gate is not None:
            logit = tl.load(inputs.gate + line, mask=valid, other=0.0).to(tl.float32)
            dgate = tl.sum(dy.to(tl.float32) * y, 1) * tl.sigmoid(-logit)
            tl.store(outputs.dgate + line, dgate.to(outputs.dgate.dtype.element_ty), mask=valid)
            share = tl.sigmoid(logit)
            gradient *= share[:, None]
        dout = gradient.to(dy.dtype)
        rounded = dout.to(tl.float32)
        if outputs.dout is not None:
            tl.store(outputs.dout + (line * D)[:, None] + dim, dout, mask=valid[:, None])
        delta = tl.sum(rounded * y, 1)
        if inputs.gate is not None:
            delta /= tl.maximum(share, TINY_SHARE)
        by_value = tl.sum(rounded * direction, 1)
        if inputs.v_projection is not None:
            projection = tl.load(inputs.v_projection + stat, mask=valid, other=0.0)
            dv -= projection[:, None] * rounded
            delta += projection * by_value
            by_value /= inverse
        delta = tl.where(alone, by_value, delta)
        tl.store(outputs.delta + stat, delta, mask=valid)
    if inputs.v_projection is not None:
        offset = (token * outputs.dv_stride + head * D)[:, None] + dim
        dv = (dv * inverse[:, None]).to(outputs.dv.dtype.element_ty)
        tl.store(outputs.dv + offset, dv, mask=valid[:, None])
