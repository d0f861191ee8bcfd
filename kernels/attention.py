"""Causal grouped-query attention with all that surrounds it between two projections.

Three kernels forward and backward together would be the least: here they are four, and nothing
travels twice but the keys.

    turned_keys             norm and rotary of the keys, once a token
    forward_kernel          norm, rotary and gain of the queries on load; softmax; XSA and gate
    query_gradients_kernel  gate, XSA, delta; dq through gain, rotary and norm; dgain, dgate
    key_gradients_kernel    dk through rotary and norm; dv with XSA's share

Queries are normed where they are loaded, once; keys would be again by every tile of queries, so
they have a pass of their own (24 us). Saved for the backward pass are the scaled query and turned
key in place of q and k, so the sum of what is kept does not grow.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.attention_forward import Attended, attend
from kernels.attention_key_gradients import key_gradients
from kernels.attention_query_gradients import query_gradients
from kernels.rotary import turned_keys


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
    """QK norm, partial rotary, gain, causal GQA, XSA, gate.

        q, k = rotate(rmsnorm(q)) * gain, rotate(rmsnorm(k))
        y    = softmax(q k^T / sqrt(D), causal, inside a document) v
        y    = y - its part along v                  where xsa
        y    = sigmoid(gate) * y                     where a gate is given

    Args:
        q: (B, T, H, D) as projected, bf16 or fp32; D a power of two from 16 to 128.
        k: (B, T, G, D); query head h reads key head h // (H / G).
        v: (B, T, G, D).
        gain: (H,) fp32, on the queries.
        rope: (2, T, dims / 2) fp32 from ``rope_table``; dims 0 or a power of two.
        eps: of the QK norm.
        xsa: exclude each position's own value direction.
        gate: (B, T, H) logits.
        documents: (2, B, T) int32 from ``document_bounds``; None: a window is one document.

    Returns:
        (B, T, H, D) in q's dtype.

    Raises:
        ValueError: head dim or rotary dims for which there is no kernel.
    """
    D, dims = q.size(3), 2 * rope.size(2)
    if D not in (16, 32, 64, 128) or dims > D or dims & (dims - 1):
        raise ValueError(f"no attention kernel for head dim {D} with {dims} rotary dims")
    return Attention.apply(q, k, v, gain, rope, gate, documents, eps, xsa)  # pyright: ignore[reportReturnType]


class Attention(torch.autograd.Function):
    """Saves, in q's dtype, query, turned key, v and y; and fp32 statistics of each row."""

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
        gate = None if gate is None else gate.contiguous()
        key, key_rstd = turned_keys(k, rope, eps)
        attended = attend(q, key, v, gain, rope, gate, documents, eps=eps, xsa=xsa)
        ctx.save_for_backward(
            attended.query,
            attended.rstd,
            attended.log_sum,
            attended.along,
            attended.y,
            key,
            key_rstd,
            v,
            gain,
            rope,
            gate,
            documents,
        )
        return attended.y

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor | None, ...]:
        query, rstd, log_sum, along, y, key, key_rstd, v, gain, rope, gate, documents = (
            ctx.saved_tensors
        )
        attended = Attended(query, rstd, log_sum, along, y)
        upstream = upstreams[0].contiguous()
        dq, dgain, dgate, inner, delta = query_gradients(
            upstream, attended, key, v, gain, rope, gate, documents
        )
        dk, dv = key_gradients(upstream, inner, delta, attended, key, key_rstd, v, rope, documents)
        return dq, dk, dv, dgain, None, dgate, None, None, None


def rows_of_heads(x: Tensor) -> Tensor:
    """``x`` (B, T, heads, D), copied unless tokens lie evenly and each one's heads contiguously, as
    they do in a slice of a joint projection."""
    even = x.size(0) == 1 or x.stride(0) == x.size(1) * x.stride(1)
    whole = x.stride(3) == 1 and (x.size(2) == 1 or x.stride(2) == x.size(3))
    return x if even and whole else x.contiguous()
