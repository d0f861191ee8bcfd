"""The batches that the loader passes to a training step, and their shapes."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class Batch(NamedTuple):
    """A micro-batch of one rank, on the device; B windows of T tokens.

    Attributes:
        tokens: (B, T) int32.
        targets: (B, T) int32, the next tokens.
        bounds: (2, B, T) int32: first position that each token's document has in its window, and
            first position of the next document, or T; None: documents are not distinguished.
    """

    tokens: "Tensor"
    targets: "Tensor"
    bounds: "Tensor | None" = None


class BatchShape(NamedTuple):
    """The shape of a step's batches.

    Attributes:
        batch_tokens: tokens a step, over all ranks and micro-batches.
        seq_len: tokens a window.
        accumulation: micro-batches a step.
        documents: whether batches have bounds.
    """

    batch_tokens: int
    seq_len: int
    accumulation: int = 1
    documents: bool = False


def document_bounds(tokens: np.ndarray, bos_id: int) -> np.ndarray:
    """Return where each token's document starts and stops in its window, (2, B, T) int32.

    Equal to ``kernels.attention.reference.document_bounds``, without torch.

    Args:
        tokens: (B, T) integers; every document begins with ``bos_id``.
    """
    length = tokens.shape[1]
    position = np.arange(length, dtype=np.int32)
    begins = tokens == bos_id
    start = np.maximum.accumulate(np.where(begins, position, 0), axis=1)
    following = np.full_like(start, length)
    following[:, :-1] = np.where(begins, position, length)[:, 1:]
    stop = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1]
    return np.stack((start, stop)).astype(np.int32)
