"""Causal grouped-query attention with all that surrounds it between two projections.

    rotated                 norm and rope of queries (with their gain) and keys, once a token
    forward                 softmax, values; XSA and gate
    backward_prepare        gate, XSA, delta; XSA's part of dv; dgate; on Hopper with the product
                            that makes dy
    backward_dq             dq through gain, rope and norm; dgain
    backward_dkv            dk through rope and norm; dv

The kernels with products exist twice. Training runs the Gluon kernels for Hopper (``*_hopper``).
The Triton kernels do everything else: other head dims, fp32, and the interpreter, in which the
formulas are tested on a CPU. The backward pass needs the scaled query and the rotated key instead
of q and k, so saving them takes no more memory.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.attention import (
    Kept,
    backward_dkv,
    backward_dkv_hopper,
    backward_dq,
    backward_dq_hopper,
    backward_prepare_hopper,
    forward,
    forward_hopper,
)
from kernels.attention.backward_prepare import Gradients, backward_prepare
from kernels.attention.rope import rotated
from kernels.attention.saved import Saved
from kernels.attention.schedule_hopper import heads_fit_hopper

NEAR = 256  # tokens, up to which dq of Triton takes less time than that of Hopper: see README.md


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    rope: Tensor,
    *,
    eps: float,
    xsa: bool = False,
    gate: Tensor | None = None,
    documents: Tensor | None = None,
) -> Tensor:
    """Compute ``kernels.attention.Attention`` in bf16 or fp32.

    D is 16, 32, 64 or 128; the rotary dims are 0 or a power of two.

    Raises:
        ValueError: there is no kernel for the head dim or the rotary dims.
    """
    check_heads(q.size(3), 2 * rope.size(2))
    return Attention.apply(q, k, v, gain, rope, gate, documents, eps, xsa, None)[0]  # pyright: ignore[reportOptionalSubscript]


def cached_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    rope: Tensor,
    kept: Kept,
    *,
    eps: float,
    xsa: bool = False,
    gate: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute ``kernels.attention.CachedAttention`` in bf16 or fp32, heads as for ``attention``.

    Kept and own keys are read where they lie. PyTorch's fused attention needs a mask and one tensor
    of both, computes gradients of all keys, and adds those of queries up in any order, so that
    equal runs differ.

    Raises:
        ValueError: as ``attention``.
    """
    check_heads(q.size(3), 2 * rope.size(2))
    return Attention.apply(q, k, v, gain, rope, gate, documents, eps, xsa, kept)  # pyright: ignore[reportReturnType]


def check_heads(head_dim: int, dims: int) -> None:
    """Raise ValueError if there is no kernel for the head dim or the rotary dims."""
    if head_dim not in (16, 32, 64, 128) or dims > head_dim or dims & (dims - 1):
        raise ValueError(f"no attention kernel for head dim {head_dim} with {dims} rotary dims")


class Attention(torch.autograd.Function):
    """Save ``Saved``, and what is kept as it is, because later chunks change other places of it."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gain: Tensor,
        rope: Tensor,
        gate: Tensor | None,
        documents: Tensor | None,
        eps: float,
        xsa: bool,
        kept: Kept | None,
    ) -> tuple[Tensor, Tensor]:
        q, k, v = (rows_of_heads(x) for x in (q, k, v))
        saved = attend(*rotated(q, k, rope, eps, gain), v, gain, rope, gate, documents, xsa, kept)
        ctx.save_for_backward(*saved)
        ctx.set_materialize_grads(False)
        ctx.kept = kept
        key = saved.key.transpose(1, 2)
        ctx.mark_non_differentiable(key)
        return saved.y, key

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor | None, ...]:
        saved = Saved(*ctx.saved_tensors)
        joint, dgain, dgate = joint_gradient(saved, upstreams[0], kept=ctx.kept)
        heads, kv_heads = saved.y.size(2), saved.v.size(2)
        parts = joint.split((heads, kv_heads, kv_heads), dim=2)
        return *parts, dgain, None, dgate, None, None, None, None


def attend(
    query: Tensor,
    rstd: Tensor,
    key: Tensor,
    key_rstd: Tensor,
    v: Tensor,
    gain: Tensor,
    rope: Tensor,
    gate: Tensor | None,
    documents: Tensor | None,
    xsa: bool,
    kept: Kept | None = None,
) -> Saved:
    """Compute attention of ``rotated`` queries and keys and of v (B, T, G, D).

    Returns the result ``y`` with all tensors that the backward pass reads.
    """
    B, T, G, D = v.shape
    y = torch.empty((B, T, G * query.size(2) // T, D), dtype=query.dtype, device=query.device)
    v_projection = torch.empty_like(rstd) if xsa else None
    gate = None if gate is None else gate.contiguous()
    results = y, torch.empty_like(rstd), v_projection
    saved = Saved(query, rstd, key, key_rstd, v, *results, gain, rope, gate, documents)
    if kept is None and on_hopper(saved):
        forward_hopper.forward(saved)
    else:
        forward.forward(saved, kept)
    return saved


def joint_gradient(
    saved: Saved,
    dy: Tensor,
    output: Tensor | None = None,
    kept: Kept | None = None,
    near: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return dq, dk and dv in one tensor, dgain (H,), None with ``kept``, and dgate.

    The tensor (B, T, H + 2 G, D) is what a joint projection's backward pass reads. With ``output``
    (C, H D), dy is (N, C), the gradient of the product with it, and ``backward_prepare_hopper``
    takes both. ``kept`` is as for the forward pass; ``near``: no position sees more than ``NEAR``.
    """
    dy = dy.contiguous()
    (B, T, H, D), G = saved.y.shape, saved.v.size(2)
    joint = torch.empty((B, T, H + 2 * G, D), dtype=dy.dtype, device=dy.device)
    dq, dk, dv = joint.split((H, G, G), dim=2)
    delta = torch.empty_like(saved.lse)
    dgate = None if saved.gate is None else torch.empty_like(saved.gate)
    is_dy = output is None and saved.gate is None and saved.v_projection is None
    dout = None if is_dy else torch.empty_like(saved.y)
    results = Gradients(dgate, dout, delta, dv)
    if output is None:
        backward_prepare(saved, dy, results)
    else:
        backward_prepare_hopper.backward_prepare(saved, dy, output, results)
    dout = dy if dout is None else dout
    hopper = kept is None and on_hopper(saved)
    if hopper and not near:
        dgain = backward_dq_hopper.backward_dq(saved, dout, delta, dq)
    else:
        dgain = backward_dq.backward_dq(saved, dout, delta, dq, kept, near)
    if hopper:
        backward_dkv_hopper.backward_dkv(saved, dout, delta, dk, dv)
    else:
        backward_dkv.backward_dkv(saved, dout, delta, dk, dv)
    return joint, dgain, dgate


def on_hopper(saved: Saved) -> bool:
    """Return whether the Hopper kernels compute this attention."""
    return heads_fit_hopper(saved.y, saved.v.size(2), saved.rope.size(-1))


def rows_of_heads(x: Tensor) -> Tensor:
    """Return x (B, T, heads, D), copied if a kernel cannot read it.

    Kernels need evenly spaced tokens and contiguous heads of a token, as in a slice of a joint
    projection.
    """
    even = x.size(0) == 1 or x.stride(0) == x.size(1) * x.stride(1)
    whole = x.stride(3) == 1 and (x.size(2) == 1 or x.stride(2) == x.size(3))
    return x if even and whole else x.contiguous()
