"""Token, bigram and value embeddings."""

from typing import Protocol

import torch
from torch import Tensor


class Embed(Protocol):
    """From token ids to the first hidden state."""

    def __call__(
        self,
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
        """Return ``smear(rmsnorm(table[t] + scale * bigram_table[row] @ proj.T))``.

            smear(x)_i = (1 - g) x_i + g x_{i-1},  g = sigmoid(smear_gate)
            row_i      = hash(rows) = (36313 t_i XOR 27191 t_{i-1}) mod (rows - 1)

        At position 0, x_{-1} is zero and the row is rows - 1. With ``edges`` the k-th pair has row
        k, and all others the row E + hash(rows - E).

        With ``smear_scale`` SmearGate comes first, ``rmsnorm(smear(x))``, and has one gate a
        position, of the first W channels:

            smear(x)_i = x_i + smear_scale * sigmoid(smear_gate . x_i[:W]) x_{i-1}

        Args:
            tokens: (B, T) int32.
            table: (V, C) fp32 master weights, so that their gradient is summed in fp32.
            smear_gate: (C,) fp32; (W,) with ``smear_scale``.
            dtype: of the result.
            eps: added to the mean square in the RMSNorm.
            bos_id: token before which SmearGate reads zero instead of the previous state; None:
                SmearGate reads across document starts.
            bigram: table (rows, E) fp32, projection (C, E) in ``dtype``, scale () fp32.
            smear_scale: () fp32; None: the gate is constant.
            edges: (2, E) int32, E < rows - 1: tokens and their predecessors, ascending by token,
                then by predecessor; None: all rows are hashed.

        Returns:
            (B, T, C) in ``dtype``.
        """
        ...
