"""Output head, softcap and cross-entropy without whole logits in memory."""

from typing import Protocol

from torch import Tensor

from kernels.operand import Operand


class Loss(Protocol):
    """Output heads, softcap and cross-entropy."""

    def __call__(
        self,
        hidden: Tensor,
        head: Tensor | Operand,
        targets: Tensor,
        *,
        softcap: float,
        mtp_heads: Tensor | Operand | None = None,
        mtp_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        further_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the batch, and the nats of each token at the main head.

            z    = softcap * tanh(hidden @ head.T / softcap)      (Gemma 2, arXiv:2408.00118)
            nats = log sum exp(z) - z[target]
            loss = main + mtp_weight * mean over k of head k's loss

        Each head's loss is the mean over its tokens, weighted by ``target_weight[target]``. MTP
        head k (from 1) predicts the target k positions further on (Gloeckle et al. 2024,
        arXiv:2404.19737). Positions whose target is outside the window do not count.
        Without MTP heads, ``further_weights`` lets the main head's logits predict further targets
        (modded-nanogpt): the loss gets ``further_weights[k - 1]`` times their loss in the target k
        positions further on.

        Args:
            hidden: (B, T, C) final normed state.
            head: (V, C) in hidden's dtype.
            targets: (B, T) int32 or int64, the next token of each position.
            softcap: of the logits.
            mtp_heads: (K, V, C), K < T.
            mtp_weight: () fp32 lever, read on the device.
            target_weight: (V,) fp32 weight of each target token; no gradient is returned for it.
            further_weights: (K,) fp32, K < T, read on the device; no gradient is returned for it.

        Returns:
            loss () fp32 with gradient; nats (B, T) fp32 without.

        Raises:
            ValueError: there are MTP heads and further weights.
        """
        ...
