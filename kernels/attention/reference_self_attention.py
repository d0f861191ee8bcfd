"""Projections and attention as one operation."""

from collections.abc import Callable

from torch import Tensor

from kernels.attention.reference import attention as plain_attention
from kernels.linear.reference import projections as plain_projections


def self_attention(
    x: Tensor,
    weight: Tensor,
    heads: int,
    kv_heads: int,
    gain: Tensor,
    rope: Tensor,
    *,
    eps: float,
    xsa: bool = False,
    gate: Tensor | None = None,
    documents: Tensor | None = None,
    lookup: Tensor | None = None,
    lookup_weight: Tensor | None = None,
    projections: Callable[..., tuple[Tensor, ...]] = plain_projections,
    attention: Callable[..., Tensor] = plain_attention,
) -> Tensor:
    """``attention(q, k, v, ...)`` of the projections q, k, v of one input.

    Args:
        x: (B, T, C).
        weight: ((H + 2 G) D, C), the rows of Q, then of K, then of V.
        heads, kv_heads: H and G.
        gain, rope, eps, xsa, gate, documents: as ``attention`` takes them.
        lookup, lookup_weight: as ``projections`` takes them, into v.
        projections, attention: the two operations; a namespace that changes either puts its own.

    Returns:
        (B, T, H, D) in x's dtype.
    """
    head_dim = weight.size(0) // (heads + 2 * kv_heads)
    sizes = (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
    parts = projections(x, weight, sizes, lookup, lookup_weight)
    q, k, v = (part.unflatten(-1, (-1, head_dim)) for part in parts)
    return attention(q, k, v, gain, rope, eps=eps, xsa=xsa, gate=gate, documents=documents)
