"""Bits per byte of a split, plain or by sliding window, on all ranks.

Every token but the split's first is a target and is scored exactly once. Window 0 covers the first
``seq_len`` targets and scores them all. Each later window ends ``stride`` targets further on and
scores only the new ones, so its targets see at least ``seq_len - stride`` tokens before them. The
last window ends with the split, with as much context as any other. Plain evaluation is
``stride == seq_len``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from errors import InputError
from evaluation.score import (
    OnProgress,
    Score,
    ScoreFunction,
    Scoring,
    Split,
    Tally,
    Tokens,
    to_device,
)
from settings.evaluation import EvaluationSettings


@dataclass(frozen=True)
class WindowPlan:
    """How a split is cut into windows, and how many of them are scored at once.

    Attributes:
        seq_len: T, tokens of context.
        stride: targets that a window scores, 1 to ``seq_len``.
        batch: windows a call, or all windows of a rank if it has fewer.
    """

    seq_len: int
    stride: int
    batch: int

    @classmethod
    def of(cls, settings: EvaluationSettings, stride: int = 0) -> Self:
        """Return the plan of the settings, with another stride if one is given."""
        seq_len = settings.eval_seq_len
        stride = stride or settings.eval_stride or seq_len
        return cls(seq_len, stride, max(1, settings.val_batch_size // seq_len))


@dataclass(frozen=True)
class Windows:
    """Which targets each window covers and which of them it scores.

    Token ``i`` of the split is the target of token ``i - 1``; targets are 1 ... ``targets``.
    """

    targets: int
    seq_len: int
    stride: int

    def __len__(self) -> int:
        return self.begun_before(self.targets)

    def begun_before(self, target: int) -> int:
        """Return how many windows score a target up to ``target``."""
        return 1 + max(0, math.ceil((target - self.seq_len) / self.stride))

    def starts(self, indices: np.ndarray) -> np.ndarray:
        """Return each window's first input; its inputs are the ``seq_len`` tokens from there."""
        return np.minimum(indices * self.stride, max(0, self.targets - self.seq_len))

    def scored_before(self, indices: np.ndarray) -> np.ndarray:
        """Return the last target that an earlier window scores; all later ones are new."""
        return np.where(indices == 0, 0, self.seq_len + (indices - 1) * self.stride)


def evaluate(score_fn: ScoreFunction, split: Split, plan: WindowPlan, scoring: Scoring) -> Score:
    """Score a split; every rank calls it, and every rank gets the same result.

    The ranks share the windows and exchange only the sums of three numbers.

    Args:
        score_fn: (inputs (B, T) int32, targets (B, S) int32) -> nats (B, S) of the last S <= T
            positions, from a causal model on the device of ``scoring.world``. It sees two shapes:
            (batch, T), with S = T for the first windows and S = stride for the others.
        split: what to score.
        plan: the windows.
        scoring: the ranks; ``progress`` counts the windows of this rank.

    Raises:
        InputError: an impossible stride or batch, a split without a target, or targets without
            bytes of text.
    """
    windows = cut(split, plan)
    tally = Tally(split, scoring)
    batch = min(plan.batch, math.ceil(len(windows) / scoring.world.size))
    span = (0, len(windows))
    score_windows(score_fn, split.stream, windows, span, batch, tally, scoring.progress)
    return tally.score()


def cut(split: Split, plan: WindowPlan) -> Windows:
    """Return the windows of a split; raises as ``evaluate``."""
    if not 1 <= plan.stride <= plan.seq_len or plan.batch < 1 or split.max_tokens < 0:
        raise InputError(
            f"evaluation with stride {plan.stride}, {plan.batch} windows a batch and at most "
            f"{split.max_tokens} tokens: choose a stride of 1 to {plan.seq_len} (the sequence "
            "length), a batch of 1 or more and a limit of 0 (none) or more"
        )
    if len(split.stream) < 2:
        raise InputError(
            f"a split of {len(split.stream)} tokens has nothing to score; give a longer one"
        )
    return Windows(split.targets, plan.seq_len, plan.stride)


@torch.inference_mode()
def score_windows(
    score_fn: ScoreFunction,
    stream: Tokens,
    windows: Windows,
    span: tuple[int, int],
    batch_windows: int,
    tally: Tally,
    progress: OnProgress | None = None,
) -> None:
    """Add this rank's share of the windows [first, last) of ``span`` to the tally."""
    begin, count = span[0], span[1] - span[0]
    rank, size = tally.world.rank, tally.world.size
    first, last = begin + count * rank // size, begin + count * (rank + 1) // size
    for batch, scored in _batches(windows, first, last, batch_windows):
        tokens, positions, is_new = _load(stream, windows, batch, last, tally.world.device)
        nats = score_fn(tokens[:, :-1].contiguous(), tokens[:, -scored:].contiguous())
        tally.add(tokens, nats, positions[:, -scored:], is_new[:, -scored:])
        if progress:
            progress(min(int(batch[-1]) + 1, last) - first, last - first)


def _batches(
    windows: Windows, first: int, last: int, size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield windows [first, last) in batches, with the number of positions that each scores.

    The last batch runs past ``last`` to keep its shape. The first batch scores whole windows,
    because window 0 does: that is the shape of a plain evaluation, for which a GPU has its kernels.
    """
    for begin in range(first, last, size):
        scored = windows.seq_len if begin == 0 else windows.stride
        yield np.arange(begin, begin + size), scored


def _load(
    stream: Tokens, windows: Windows, batch: np.ndarray, last: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Load the windows of a batch.

    Windows overlap, so the tokens are copied once, as one span, and spread out on the device.
    Windows from ``last`` on repeat the tokens of the last window, and none of these is new. Beyond
    the last target, tokens are 0.

    Returns:
        tokens (B, T + 1) int32; positions (B, T) of their targets; which targets (B, T) are new.
    """
    starts = windows.starts(np.minimum(batch, last - 1))
    begin, end = int(starts[0]), int(starts[-1]) + windows.seq_len + 1
    span = np.zeros(end - begin, np.int32)
    known = stream.read(begin, min(end, windows.targets + 1) - begin)
    span[: len(known)] = known
    window_starts = to_device(starts, device)[:, None]
    positions = window_starts + torch.arange(windows.seq_len + 1, device=device)
    tokens = to_device(span, device)[positions - begin]
    target, scored = positions[:, 1:], to_device(windows.scored_before(batch), device)[:, None]
    # A window that repeats another's tokens has scored_before beyond them: none of them is new.
    return tokens, target, (target > scored) & (target <= windows.targets)
