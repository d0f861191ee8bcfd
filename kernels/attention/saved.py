"""The tensors that attention's kernels read and write, and that its backward pass reads again."""

from typing import NamedTuple

from torch import Tensor


class Saved(NamedTuple):
    """Attention's operands and results. A row is (position, head of the group).

    Attributes:
        query: (B, G, rows, D) rotated and scaled, as ``rope.rotated`` returns it.
        rstd: (B, G, padded rows) fp32, the queries' 1/rms.
        key: (B, G, T, D) rotated.
        key_rstd: (B, G, padded T) fp32.
        v: (B, T, G, D), tokens ``stride(1)`` apart.
        y: (B, T, H, D), the result.
        lse: as rstd: log2 of the softmax's denominator, a result.
        v_projection: as rstd: (softmax's output) . v/|v|, a result of XSA; None without.
        gain: (H,) fp32.
        rope: (2, T, PAIRS) fp32.
        gate: (B, T, H) logits or None.
        documents: (2, B, T) int32 or None.
    """

    query: Tensor
    rstd: Tensor
    key: Tensor
    key_rstd: Tensor
    v: Tensor
    y: Tensor
    lse: Tensor
    v_projection: Tensor | None
    gain: Tensor
    rope: Tensor
    gate: Tensor | None
    documents: Tensor | None

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.query.size(2) // self.key.size(2)
