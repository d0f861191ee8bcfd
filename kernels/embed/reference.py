"""From token ids to the first hidden state: token + bigram embedding, RMSNorm, SmearGate."""

import torch
import torch.nn.functional as F
from torch import Tensor

HASH_CURRENT = 36313
HASH_PREVIOUS = 27191


def bigram_hash(tokens: Tensor, rows: int) -> Tensor:
    """Return the bigram table's row for each position, in int32 arithmetic that wraps.

    ``(36313 * t_i XOR 27191 * t_{i-1}) mod (rows - 1)``; position 0 has no predecessor and uses the
    last row. From parameter-golf's BigramHash.

    Args:
        tokens: (B, T) integer ids.
        rows: of the table.

    Returns:
        (B, T) int32 in [0, rows).
    """
    tokens = tokens.to(torch.int32)
    mixed = (HASH_CURRENT * tokens[:, 1:]) ^ (HASH_PREVIOUS * tokens[:, :-1])
    return F.pad(mixed % (rows - 1), (1, 0), value=rows - 1)


def bigram_rows(tokens: Tensor, rows: int, edges: Tensor | None, vocabulary: int) -> Tensor:
    """Return the bigram table's row for each position: its edge's, or a hashed one.

    Args:
        tokens: (B, T) integer ids.
        rows: of the table.
        edges: as ``kernels.embed.Embed`` takes them.
        vocabulary: more than the largest id.

    Returns:
        (B, T) int32 in [0, rows).
    """
    if edges is None:
        return bigram_hash(tokens, rows)
    count = edges.size(1)
    hashed = count + bigram_hash(tokens, rows - count)
    known, tokens = edges.long(), tokens.long()
    keys = known[0] * vocabulary + known[1]
    wanted = tokens * vocabulary + F.pad(tokens[:, :-1], (1, 0))
    place = torch.searchsorted(keys, wanted).clamp_max(count - 1)
    found = keys[place] == wanted
    found[:, 0] = False
    return torch.where(found, place.to(torch.int32), hashed)


def smear(x: Tensor, tokens: Tensor, gate: Tensor, bos_id: int | None) -> Tensor:
    """Return ``(1 - g) x_i + g x_{i-1}`` with ``g = sigmoid(gate)``; nothing enters a document.

    If token i is BOS, its predecessor belongs to another document and counts as zero, as at
    position 0. With ``bos_id=None`` states leak between documents, as in the public system.
    """
    previous = previous_in_document(x, tokens, bos_id)
    g = torch.sigmoid(gate).to(x.dtype)
    return (1 - g) * x + g * previous


def window_smear(
    x: Tensor, tokens: Tensor, gate: Tensor, scale: Tensor, bos_id: int | None
) -> Tensor:
    """Return ``x_i + scale sigmoid(gate . x_i[:W]) x_{i-1}``; nothing enters a document."""
    logits = F.linear(x[..., : gate.numel()], gate.to(x.dtype)[None])
    g = scale.to(x.dtype) * torch.sigmoid(logits)
    return x + g * previous_in_document(x, tokens, bos_id)


def previous_in_document(x: Tensor, tokens: Tensor, bos_id: int | None) -> Tensor:
    """Return x (B, T, C) of the position before, zero at position 0 and at BOS."""
    previous = F.pad(x[:, :-1], (0, 0, 1, 0))
    if bos_id is None:
        return previous
    return previous.masked_fill((tokens == bos_id)[..., None], 0.0)


def embed(
    tokens: Tensor,
    table: Tensor,
    smear_gate: Tensor,
    *,
    dtype: torch.dtype,
    eps: float,
    bos_id: int | None,
    bigram: tuple[Tensor, Tensor, Tensor] | None = None,
    smear_scale: Tensor | None = None,
    edges: Tensor | None = None,
) -> Tensor:
    """Compute ``kernels.embed.Embed`` in plain PyTorch."""
    x = F.embedding(tokens, table).to(dtype)
    if bigram is not None:
        rows, projection, scale = bigram
        found = bigram_rows(tokens, rows.size(0), edges, table.size(0))
        looked_up = F.embedding(found, rows).to(dtype)
        x = x + F.linear(looked_up, projection) * scale.to(dtype)
    if smear_scale is not None:
        x = window_smear(x, tokens, smear_gate, smear_scale, bos_id)
        return F.rms_norm(x, (x.size(-1),), eps=eps)
    x = F.rms_norm(x, (x.size(-1),), eps=eps)
    return smear(x, tokens, smear_gate, bos_id)
