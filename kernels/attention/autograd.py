"""Causal grouped-query attention with all that surrounds it between two projections.

    turned                  norm and rotary of queries (with their gain) and keys, once a token
    attend                  softmax, values; XSA and gate
    output_gradients        gate, XSA, delta; XSA's share of dv; dgate
    query_gradients         dq through gain, rotary and norm; dgain
    key_gradients           dk through rotary and norm; dv

Those with products come twice: in Gluon for Hopper (``kernels.hopper``), which is what trains, and
in Triton for everything else: other head dims, fp32, the interpreter, which is also how the
formulas are tested on a CPU. Saved for the backward pass are the scaled query and turned key in
place of q and k, so the sum of what is kept does not grow.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.attention import backward_dkv as attention_key_gradients
from kernels.attention import backward_dkv_hopper as hopper_key_gradients
from kernels.attention import backward_dq as attention_query_gradients
from kernels.attention import backward_dq_hopper as hopper_query_gradients
from kernels.attention import forward as attention_forward
from kernels.attention import forward_hopper as hopper_forward
from kernels.attention.backward_prepare import output_gradients
from kernels.attention.rope import turned
from kernels.attention.schedule_hopper import fits


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
    return Attention.apply(q, k, v, gain, rope, gate, documents, eps, xsa)  # pyright: ignore[reportReturnType]


def check_heads(head_dim: int, dims: int) -> None:
    """Raises ValueError where there is no kernel for the head dim or the rotary dims."""
    if head_dim not in (16, 32, 64, 128) or dims > head_dim or dims & (dims - 1):
        raise ValueError(f"no attention kernel for head dim {head_dim} with {dims} rotary dims")


class Attention(torch.autograd.Function):
    """Saves ``Kept``."""

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
    ) -> Tensor:
        q, k, v = (rows_of_heads(x) for x in (q, k, v))
        kept = attend(*turned(q, k, rope, eps, gain), v, gain, rope, gate, documents, xsa)
        ctx.save_for_backward(*kept)
        return kept.y

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor | None, ...]:
        kept = Kept(*ctx.saved_tensors)
        joint, dgain, dgate = joint_gradient(kept, upstreams[0])
        heads, kv_heads = kept.y.size(2), kept.v.size(2)
        parts = joint.split((heads, kv_heads, kv_heads), dim=2)
        return *parts, dgain, None, dgate, None, None, None


class Kept(NamedTuple):
    """What the backward pass reads: in the compute dtype query, key, v and y, and fp32 statistics
    of each row; shapes as the kernels have them."""

    query: Tensor
    rstd: Tensor
    key: Tensor
    key_rstd: Tensor
    v: Tensor
    y: Tensor
    log_sum: Tensor
    along: Tensor | None
    gain: Tensor
    rope: Tensor
    gate: Tensor | None
    documents: Tensor | None

    @property
    def on_hopper(self) -> bool:
        return fits(self.y, self.v.size(2), self.rope.size(-1))


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
) -> Kept:
    """Attention of ``turned`` queries and keys, and of v (B, T, G, D)."""
    B, T, G, D = v.shape
    y = torch.empty((B, T, G * query.size(2) // T, D), dtype=query.dtype, device=query.device)
    along = torch.empty_like(rstd) if xsa else None
    gate = None if gate is None else gate.contiguous()
    statistics = (torch.empty_like(rstd), along)
    kept = Kept(query, rstd, key, key_rstd, v, y, *statistics, gain, rope, gate, documents)
    launcher = hopper_forward if kept.on_hopper else attention_forward
    launcher.attend(query, key, v, gate, documents, y, *statistics)
    return kept


def joint_gradient(kept: Kept, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """dq, dk and dv side by side (B, T, H + 2 G, D), token by token, as a joint projection wants
    them; dgain; dgate."""
    query, rstd, key, key_rstd, v, y, log_sum, along, gain, rope, gate, documents = kept
    upstream = upstream.contiguous()
    (B, T, H, D), G = y.shape, v.size(2)
    joint = torch.empty((B, T, H + 2 * G, D), dtype=y.dtype, device=y.device)
    dq, dk, dv = joint.split((H, G, G), dim=2)
    delta = torch.empty_like(log_sum)
    dgate = None if gate is None else torch.empty_like(gate)
    inner = None if gate is None and along is None else torch.empty_like(upstream)
    output_gradients(upstream, y, v, gate, documents, along, dgate, inner, delta, dv)
    inner = upstream if inner is None else inner
    queries, keys = attention_query_gradients, attention_key_gradients
    if kept.on_hopper:
        queries, keys = hopper_query_gradients, hopper_key_gradients
    dgain = queries.query_gradients(
        inner, delta, query, rstd, key, v, gain, rope, documents, log_sum, dq
    )
    xsa = along is not None
    keys.key_gradients(inner, delta, query, key, key_rstd, v, rope, documents, log_sum, dk, dv, xsa)
    return joint, dgain, dgate


def rows_of_heads(x: Tensor) -> Tensor:
    """``x`` (B, T, heads, D), copied unless tokens lie evenly and each one's heads contiguously, as
    they do in a slice of a joint projection."""
    even = x.size(0) == 1 or x.stride(0) == x.size(1) * x.stride(1)
    whole = x.stride(3) == 1 and (x.size(2) == 1 or x.stride(2) == x.size(3))
    return x if even and whole else x.contiguous()
