"""Causal grouped-query attention in plain PyTorch, alone and with the projections before it."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import Attention, Kept, SelfAttention
from kernels.linear import Linear, LinearAdd, Projections
from kernels.linear import reference as products
from kernels.operand import Operand, sourced

# (q, k, v, documents or None) -> y, as causal.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def rope_table(length: int, dims: int, base: float, device: torch.device) -> Tensor:
    """Compute ``kernels.attention.RopeTable``."""
    return rope_at(torch.arange(length, device=device), dims, base)


def rope_at(positions: Tensor, dims: int, base: float) -> Tensor:
    """Return the table's columns (2, T, dims / 2) fp32 at positions (T,)."""
    device = positions.device
    inverse = base ** (-torch.arange(0, dims, 2, dtype=torch.float64, device=device) / dims)
    angles = torch.outer(positions.double(), inverse)
    return torch.stack((angles.cos(), angles.sin())).float()


def document_bounds(tokens: Tensor, bos_id: int) -> Tensor:
    """Return each token's bounds: the start and the stop of its document in its window.

    Two integers a token have three advantages over cumulative lengths. Their shape does not depend
    on the data, so a captured graph replays. A tile reads the bounds of its first and last token
    and skips the rest without a search. A mask is two comparisons, of the query's start and the
    key's stop.

    Args:
        tokens: (B, T) integer ids; every document begins with ``bos_id``.

    Returns:
        (2, B, T) int32: first position, and first position of the next document or T.
    """
    T = tokens.size(1)
    position = torch.arange(T, dtype=torch.int32, device=tokens.device)
    begins = tokens == bos_id
    start = torch.where(begins, position, 0).cummax(1).values
    following = torch.where(begins, position, T)[:, 1:]
    following = F.pad(following, (0, 1), value=T)
    stop = following.flip(1).cummin(1).values.flip(1)
    return torch.stack((start, stop)).to(torch.int32)


def window_bounds(tokens: Tensor, window: int, documents: Tensor | None = None) -> Tensor:
    """Return each token's bounds of a sliding window, in the form of ``document_bounds``.

    A position sees at most ``window`` positions, itself included. The start belongs to the query,
    the stop to the key, as for documents.

    Args:
        tokens: (B, T), for shape and device.
        window: at least 1.
        documents: (2, B, T) int32, bounds that hold as well.

    Returns:
        (2, B, T) int32: first position that the token sees, and first position that does not see
        the token, or T.
    """
    T = tokens.size(1)
    position = torch.arange(T, dtype=torch.int32, device=tokens.device)
    start, stop = (position - (window - 1)).clamp_min(0), (position + window).clamp_max(T)
    if documents is None:
        return torch.stack((start, stop))[:, None].expand(2, *tokens.shape).contiguous()
    return torch.stack((documents[0].maximum(start), documents[1].minimum(stop)))


def chunk_bounds(place: Tensor, tokens: Tensor, window: int) -> Tensor:
    """Return ``window_bounds`` of chunks whose documents go on before them.

    Args:
        place: () int64, the position of the chunks' first token in their documents.
        tokens: (N, S), for shape and device.
        window: at least 1.

    Returns:
        (2, N, S) int32, relative to the chunk: starts are negative where earlier chunks are seen.
    """
    own = torch.arange(tokens.size(1), device=tokens.device)
    start = (place + own - (window - 1)).clamp_min(0) - place
    bounds = torch.stack((start, (own + window).clamp_max(len(own)))).int()
    return bounds[:, None].expand(2, *tokens.shape).contiguous()


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the first 2 * rope.size(-1) dims of each head, in half-split pairs; the rest passes.

    x is (B, T, heads, D), rope (2, T, dims / 2) fp32.
    """
    half = rope.size(-1)
    cos, sin = rope[:, None, :, None, :]
    first, second, rest = x.split((half, half, x.size(-1) - 2 * half), dim=-1)
    rotated = torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)
    return torch.cat((rotated.to(x.dtype), rest), dim=-1)


def exclude_self(y: Tensor, v: Tensor) -> Tensor:
    """Return ``y - (y . v/|v|) v/|v|``: each head's output without its component in v's direction.

    Exclusive self attention, parameter-golf PR #198. y is (B, T, H, D), v (B, T, G, D).
    """
    B, T, H, D = y.shape
    y_grouped = y.view(B, T, v.size(2), -1, D)
    direction = F.normalize(v, dim=-1)[:, :, :, None]
    v_projection = (y_grouped * direction).sum(-1, keepdim=True)
    return (y_grouped - v_projection * direction).view(B, T, H, D)


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """Compute ``softmax(q k^T / sqrt(D)) v`` by PyTorch, causal unless ``visible`` is the mask.

    q is (B, T, H, D), k and v (B, T, G, D), visible (B, 1, T, T) boolean. Returns (B, T, H, D).
    """
    return F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=visible,
        is_causal=visible is None,
        enable_gqa=True,
    ).transpose(1, 2)


def causal(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None) -> Tensor:
    """Compute causal attention by PyTorch, inside the bounds ``documents`` (2, B, T) if given."""
    visible = None
    if documents is not None:
        position = torch.arange(q.size(1), device=q.device)
        inside = position >= documents[0, :, :, None]
        visible = (inside & (position <= position[:, None]))[:, None]
    return scaled_dot_product(q, k, v, visible)


def gain_limit(head_dim: int) -> float:
    """Return the largest gain that has an effect: 8.7 for heads of 64.

    Normed queries and keys have |q . k| <= head_dim. With this bound no score is beyond 2^+-100, so
    a kernel takes powers of 2 in fp32 without a running maximum.
    """
    return 100.0 / (math.log2(math.e) * math.sqrt(head_dim))


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
    attend: Attend = causal,
) -> Tensor:
    """Compute ``kernels.attention.Attention`` in plain PyTorch.

    Args:
        attend: the softmax and its two products; ``kernels.attention.peers`` has others.
    """
    D = q.size(-1)
    gain = gain.clamp(-gain_limit(D), gain_limit(D))
    q = rotate(F.rms_norm(q, (D,), eps=eps), rope) * gain.to(q.dtype)[:, None]
    k = rotate(F.rms_norm(k, (D,), eps=eps), rope)
    y = attend(q, k, v, documents)
    if xsa:
        y = exclude_self(y, v)
    if gate is not None:
        y = y * torch.sigmoid(gate)[..., None]
    return y


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
    """Compute ``kernels.attention.CachedAttention`` in plain PyTorch."""
    keys: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
        keys.append(k.detach())
        return over_kept(q, k, v, documents, kept)

    same = {"eps": eps, "xsa": xsa, "gate": gate, "documents": documents}
    return attention(q, k, v, gain.detach(), rope, **same, attend=attend), keys[0]


def over_kept(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, kept: Kept) -> Tensor:
    """Return softmax's output (N, S, H, D) over what is kept and the chunk's own keys."""
    assert documents is not None
    cache, place = kept
    own, ring = (torch.arange(n, device=q.device) for n in (q.size(1), cache.size(2)))
    # Each place holds the last position before the chunk that it can hold, if there is one.
    before = -1 - (place - 1 - ring) % max(len(ring), 1)
    position = torch.cat((before, own))
    seen = (position <= own[:, None]) & (position >= documents[0, 0, :, None])
    unseen = torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, -torch.inf)
    k, v = (torch.cat(pair, 1) for pair in zip(cache, (k, v), strict=True))
    return by_groups(q, k, v, unseen)


def by_groups(q: Tensor, k: Tensor, v: Tensor, unseen: Tensor) -> Tensor:
    """Return attention (N, S, H, D) of q over k and v (N, T, G, D), ``unseen`` (S, T) added.

    The queries that share a key are rows of one head, because PyTorch's fast kernels take either a
    mask or groups.
    """
    rows, size, heads, width = q.shape
    groups = k.size(2)
    folded = q.view(rows, size, groups, heads // groups, width).permute(0, 2, 3, 1, 4)
    found = F.scaled_dot_product_attention(
        folded.reshape(rows, groups, -1, width),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=unseen.repeat(heads // groups, 1),
    )
    unfolded = found.view(rows, groups, heads // groups, size, width)
    return unfolded.permute(0, 3, 1, 2, 4).reshape(q.shape)


class Products(Protocol):
    """Operations that ``compose`` calls."""

    @property
    def projections(self) -> Projections: ...
    @property
    def linear(self) -> Linear: ...
    @property
    def linear_add(self) -> LinearAdd: ...


def compose(ops: Products, attention: Attention) -> SelfAttention:
    """Return ``kernels.attention.SelfAttention`` that calls these operations."""

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
        heads = gain.numel()
        head_dim = sourced(weight).size(0) // (heads + 2 * kv_heads)
        sizes = (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
        parts = ops.projections(x, weight, sizes, *(lookup or ()))
        q, k, v = (part.unflatten(-1, (-1, head_dim)) for part in parts)
        y = attention(q, k, v, gain, rope, eps=eps, xsa=xsa, gate=gate, documents=documents)
        if onto is None:
            return y
        y, (output, stream) = y.flatten(2), onto
        return ops.linear(y, output) if stream is None else ops.linear_add(stream, y, output)

    return self_attention


self_attention = compose(products, attention)
