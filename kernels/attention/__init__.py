"""Causal grouped-query attention: norm, rotary, softmax, values, XSA and gate."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kernels.operand import Operand


class Attention(Protocol):
    """Causal grouped-query attention between two projections."""

    def __call__(
        self,
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
        """Apply QK norm, partial rotary embedding, gain, causal GQA, XSA and gate.

            q, k = rotate(rmsnorm(q)) * gain, rotate(rmsnorm(k))
            y    = softmax(q k^T / sqrt(D), causal, inside a document) v
            y    = y - (y . v/|v|) v/|v|                 if xsa
            y    = sigmoid(gate) * y                     if gate is not None

        XSA is exclusive self attention (parameter-golf PR #198): each head's output loses its
        component along the value of its own position.

        Args:
            q: (B, T, H, D) as projected, in the compute dtype.
            k: (B, T, G, D); query head h reads key head h // (H / G).
            v: (B, T, G, D).
            gain: (H,) fp32 factor of the queries, clamped to +-``reference.gain_limit(D)``.
            rope: (2, T, dims / 2) fp32 from ``RopeTable``.
            eps: added to the mean square in the QK norm.
            xsa: exclude the direction of the position's value from its output.
            gate: (B, T, H) logits.
            documents: (2, B, T) int32 from ``reference.document_bounds`` or ``window_bounds``: the
                first key that a position sees, and the first position that does not see it. Neither
                decreases along T. None: a position sees all before it.

        Returns:
            (B, T, H, D) in q's dtype.

        Raises:
            ValueError: the backend has no kernel for the head dim, the rotary dims or documents.
        """
        ...


class SelfAttention(Protocol):
    """Projections of one input and their attention."""

    def __call__(
        self,
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
        """Return the attention of the projections q, k, v of one input, or its projection.

        The result is that of ``kernels.linear.Projections`` followed by ``Attention``, and with
        ``onto`` by ``Linear`` or ``LinearAdd``. A backend may fuse them, so that raw queries and
        keys, and the gradient of attention, are never written.

        Args:
            x: (B, T, C) in the compute dtype.
            weight: ((H + 2 G) D, C), the rows of Q, then of K, then of V.
            kv_heads: G, of which H is a multiple.
            gain: as in ``Attention``, like rope, eps, xsa, gate and documents.
            lookup: a table's rows (B, T, E) and a weight (G D, E), whose product is added to v.
            onto: the weight (C', H D) of a projection of the result, and the stream (B, T, C') to
                which ``LinearAdd`` adds it, if any.
            window: tokens that a position sees at most, by which a backend chooses kernels; None:
                not known.

        Returns:
            (B, T, H, D) in x's dtype; (B, T, C') with ``onto``.

        Raises:
            ValueError: as ``Attention``.
        """
        ...


class Kept(NamedTuple):
    """Keys and values of documents that are read chunk by chunk.

    Attributes:
        cache: (2, N, R, G, D), keys, normed and rotated, and values; position p at place p mod R.
            Of first chunks, R may be 0.
        place: () int64, the chunk's first position.
    """

    cache: Tensor
    place: Tensor


class CachedAttention(Protocol):
    """Attention of a chunk of each document over keys that were kept of it, and the chunk's own."""

    def __call__(
        self,
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
        """Return ``Attention`` of N documents' chunks of S tokens, and their keys to be kept.

        What is kept has no gradient, and may change after this call, before its backward pass, but
        for the positions that the chunk sees. The gain has none because no adapter changes it.

        Args:
            q, k, v, gain, eps, xsa, gate: as in ``Attention``, of B = N windows of T = S.
            rope: (2, S, dims / 2) fp32, of the chunk's positions.
            kept: of the N documents.
            documents: (2, N, S) int32 from ``reference.chunk_bounds``, required. Positions whose
                start is negative see kept keys.

        Returns:
            (N, S, H, D) in q's dtype, and keys (N, S, G, D), normed and rotated, without gradient.
        """
        ...


class RopeTable(Protocol):
    """Angles of rotary embedding."""

    def __call__(self, length: int, dims: int, base: float, device: torch.device) -> Tensor:
        """Return cosines and sines of rotary embedding (Su et al. 2021, arXiv:2104.09864).

        Args:
            length: positions.
            dims: dims of a head that are rotated, in half-split pairs; even.
            base: of the wavelengths.
            device: of the table.

        Returns:
            (2, length, dims / 2) fp32: cos and sin of ``position * base^(-2i / dims)``.
        """
        ...
