"""The knowledge graph's scores in training: initial embeddings, and weights in the loss."""

import numpy as np
import torch
from torch import Tensor


def embedding_gain(scores: np.ndarray, strength: float) -> Tensor:
    """Return factors (V,) fp32 of the initial embedding's rows: ``1 + strength * score``.

    As parameter-golf PR #1081.

    Args:
        scores: (V,) fp32 in [0, 1], of `knowledge.scores.scores_for`.
    """
    return 1 + strength * torch.from_numpy(scores)


def target_weight(scores: Tensor, kg_weight: Tensor) -> Tensor:
    """Return weights (V,) fp32 of target tokens for the loss: ``1 + kg_weight * score``.

    The loss divides by the weights' mean over its targets, so a batch's mean weight is 1 for any
    value of the lever. Nothing waits; a captured step reads the lever in every replay.

    Args:
        scores: (V,) fp32 on the device.
        kg_weight: () fp32 lever on the device, not negative.
    """
    return 1 + kg_weight * scores
