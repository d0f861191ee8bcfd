"""What a run does with token scores: larger initial embeddings, heavier targets in the loss."""

import numpy as np
import torch
from torch import Tensor


def embedding_gain(scores: np.ndarray, strength: float) -> Tensor:
    """Factors (V,) fp32 of the initial embedding's rows: ``1 + strength * score``, as PR #1081.

    Args:
        scores: (V,) fp32 in [0, 1], of ``scores.scores_for``.
    """
    return 1 + strength * torch.from_numpy(scores)


def target_weight(scores: Tensor, kg_weight: Tensor) -> Tensor:
    """Weights (V,) fp32 of target tokens, ``1 + kg_weight * score``, for the loss operation.

    That one divides by the weights' mean over the targets it sees, so that a batch's mean weight is
    one whatever the lever says. No sync; a captured step reads the lever anew.

    Args:
        scores: (V,) fp32 on the device.
        kg_weight: () fp32 lever on the device, not negative.
    """
    return 1 + kg_weight * scores
