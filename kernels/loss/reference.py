"""Output head, softcap and cross-entropy of the main and the multi-token-prediction heads."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.operand import Operand, dense


def softcapped(hidden: Tensor, head: Tensor, softcap: float) -> Tensor:
    """Return ``softcap * tanh(hidden @ head.T / softcap)`` in fp32 (Gemma 2, arXiv:2408.00118)."""
    return softcap * torch.tanh(F.linear(hidden, head).float() / softcap)


def token_nats(hidden: Tensor, head: Tensor, targets: Tensor, softcap: float) -> Tensor:
    """Return the cross-entropy of each target, (B, T) fp32 nats."""
    return nats_of(softcapped(hidden, head, softcap), targets)


def nats_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy (B, T) fp32 of logits (B, T, V)."""
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten().long(), reduction="none")
    return flat.view(targets.shape)


def weighted_mean(nats: Tensor, targets: Tensor, target_weight: Tensor | None) -> Tensor:
    """Return the mean over tokens, with weights that average to one over the batch."""
    if target_weight is None:
        return nats.mean()
    weights = target_weight[targets.long()]
    return (nats * weights).sum() / weights.sum()


def loss(
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
    """Compute ``kernels.loss.Loss`` in plain PyTorch."""
    head = dense(head, hidden.dtype)
    logits = softcapped(hidden, head, softcap)
    nats = nats_of(logits, targets)
    total = weighted_mean(nats, targets, target_weight)
    if mtp_heads is not None and mtp_weight is not None:
        further = [
            mtp_loss(hidden, mtp_head, targets, ahead, softcap, target_weight)
            for ahead, mtp_head in enumerate(dense(mtp_heads, hidden.dtype), start=1)
        ]
        total = total + mtp_weight * torch.stack(further).mean()
    if further_weights is not None:
        check_further(mtp_heads)
        for ahead, weight in enumerate(further_weights, start=1):
            far_targets = targets[:, ahead:]
            far = nats_of(logits[:, :-ahead], far_targets)
            total = total + weight * weighted_mean(far, far_targets, target_weight)
    return total, nats.detach()


def check_further(mtp_heads: object | None) -> None:
    """Raise ValueError if there are MTP heads besides weights of further targets."""
    if mtp_heads is not None:
        raise ValueError("further targets of the main head exclude MTP heads")


def mtp_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    ahead: int,
    softcap: float,
    target_weight: Tensor | None,
) -> Tensor:
    """Return the mean loss of the head that predicts ``ahead`` positions beyond the next token."""
    far_targets = targets[:, ahead:]
    nats = token_nats(hidden[:, :-ahead], head, far_targets, softcap)
    return weighted_mean(nats, far_targets, target_weight)
