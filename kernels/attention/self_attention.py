"""From a layer's normed input to attention's output, or to the residual stream, as one operation.

    project                 queries and keys normed, rotated and scaled, and values: one kernel
    attend                  as in ``kernels.attention.autograd``
    onto                    a product by cuBLAS, in stream's memory if there is one
    joint_gradient          as there: dq, dk and dv in one tensor
    projection_gradients    as in ``kernels.linear.autograd``

``projections`` followed by ``attention`` writes and reads raw queries and keys, 151 MB a layer at
98,304 tokens. They stay until the backward pass, because the values are a slice of their memory. If
``project`` has no kernel for the shapes, it computes a product and ``rotated``.

With ``onto``, attention's gradient is made in the registers of ``backward_prepare_hopper``, if
that has a kernel for the shapes; otherwise by cuBLAS, 202 MB to write and to read.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.attention import qkv_hopper
from kernels.attention.autograd import NEAR, attend, check_heads, joint_gradient
from kernels.attention.backward_prepare_hopper import prepare_fits_hopper
from kernels.attention.rope import rotated
from kernels.attention.saved import Saved
from kernels.common.streams import Side
from kernels.linear.autograd import projection_gradients, rows
from kernels.operand import Operand, unscaled


def self_attention(
    x: Tensor,
    weight: Tensor | Operand,
    kv_heads: int,
    gain: Tensor,
    rope: Tensor,
    *,
    eps: float,
    xsa: bool = False,
    gate: Tensor | None = None,
    documents: Tensor | None = None,
    lookup: tuple[Tensor, Tensor] | None = None,
    onto: tuple[Tensor | Operand, Tensor | None] | None = None,
    window: int | None = None,
) -> Tensor:
    """Compute ``kernels.attention.SelfAttention`` in bf16 or fp32.

    Head dim and rotary dims are those of ``kernels.attention.autograd.attention``.

    Raises:
        ValueError: there is no kernel for the head dim or the rotary dims.
    """
    weight = unscaled(weight)
    check_heads(weight.size(0) // (gain.numel() + 2 * kv_heads), 2 * rope.size(2))
    output, stream = (None, None) if onto is None else (unscaled(onto[0]), onto[1])
    given = (x, weight, *(lookup or (None, None)), gain, rope, gate, documents, output, stream)
    near = window is not None and window <= NEAR
    return SelfAttention.apply(*given, kv_heads, eps, xsa, near)  # pyright: ignore[reportReturnType]


class SelfAttention(torch.autograd.Function):
    """Save ``Saved`` and the factors: x, the lookup and all weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        lookup: Tensor | None,
        lookup_weight: Tensor | None,
        gain: Tensor,
        rope: Tensor,
        gate: Tensor | None,
        documents: Tensor | None,
        output: Tensor | None,
        stream: Tensor | None,
        kv_heads: int,
        eps: float,
        xsa: bool,
        near: bool,
    ) -> Tensor:
        x = x.contiguous()
        query, rstd, key, key_rstd, v = project(x, weight, gain, rope, kv_heads, eps)
        if lookup is not None and lookup_weight is not None:
            v.view(-1, lookup_weight.size(0)).addmm_(rows(lookup), lookup_weight.T)
        saved = attend(query, rstd, key, key_rstd, v, gain, rope, gate, documents, xsa)
        ctx.save_for_backward(x, weight, lookup, lookup_weight, output, *saved)
        ctx.near = near
        if output is None:
            return saved.y
        y = saved.y.flatten(2)
        if stream is None:
            return F.linear(y, output)
        ctx.mark_dirty(stream)
        stream.view(-1, stream.size(-1)).addmm_(rows(y), output.T)
        return stream

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, lookup, lookup_weight, output, *saved = ctx.saved_tensors
        saved, needed = Saved(*saved), ctx.needs_input_grad
        y, dy, d_output = rows(saved.y.flatten(2)), rows(upstream), None
        fused = output is not None and prepare_fits_hopper(dy, saved)
        if output is not None and not fused:
            with Side(dy.device) as side:
                d_output = side.product(dy.T, y) if needed[8] else None
                dy = dy @ output
        into = dy if fused else dy.view_as(saved.y)
        joint, dgain, dgate = joint_gradient(saved, into, output if fused else None, near=ctx.near)
        with Side(dy.device) as side:
            # Not before, because the kernels in between occupy every multiprocessor.
            if fused and needed[8]:
                d_output = side.product(dy.T, y)
            given = (rows(joint.flatten(2)), x, weight, lookup, lookup_weight, needed[:4])
            found = projection_gradients(*given)
        d_stream = upstream if needed[9] else None
        return *found, dgain, None, dgate, None, d_output, d_stream, *[None] * 4


def project(
    x: Tensor, weight: Tensor, gain: Tensor, rope: Tensor, kv_heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return query, its 1/rms, key, its 1/rms, and v with evenly spaced tokens.

    All but v are as ``rotated`` returns them for x's projections.
    """
    heads = gain.numel()
    head_dim = weight.size(0) // (heads + 2 * kv_heads)
    if qkv_hopper.projections_fit_hopper(rows(x), heads, kv_heads, head_dim, rope.size(-1)):
        return qkv_hopper.project(x, weight, gain, rope, heads, kv_heads, eps)
    joint = F.linear(x, weight).unflatten(-1, (-1, head_dim))
    q, k, v = joint.split((heads, kv_heads, kv_heads), dim=2)
    return *rotated(q, k, rope, eps, gain), v
