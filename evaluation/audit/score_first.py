"""C3, score before update: no score uses weights that were updated on its own token."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from evaluation.audit.runs import Baseline, Check, Ledger, TokenArray
from evaluation.ttt.learner import Learner

RULE = "C3 score before update"
MOST_TRIALS = 8  # updates that are poisoned


class PoisonedLearner:
    """A learner that overwrites what it updates with NaN after one of its updates.

    Args:
        learner: the real one.
        ledger: where scores are recorded.
        tokens: the text.
        at: the update, from 0; -1: none.

    Attributes:
        updates: how many there were.
        unscored: tokens that had no score when an update used them.
        foreign: tokens that are not the text's at their positions.
        positions: that update ``at`` used.
    """

    def __init__(self, learner: Learner, ledger: Ledger, tokens: np.ndarray, at: int) -> None:
        self.learner, self.ledger, self.text, self.at = learner, ledger, tokens, at
        self.score = learner.score
        self.updates = 0
        self.unscored = self.foreign = 0
        self.positions = np.empty(0, np.int64)

    def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        """Update, and count tokens without a score and tokens that are not the text's."""
        known = positions >= 0
        used = positions[known].cpu().numpy()
        self.unscored += len(np.setdiff1d(used, self.ledger.positions))
        given = tokens[:, -positions.size(1) :][known].cpu().numpy()
        self.foreign += int((self.text[used] != given).sum())
        self.learner.update(tokens, positions, lr_scale)
        if self.updates == self.at:
            self.positions = used
            for tensor in self.tensors():
                tensor.fill_(torch.nan)
        self.updates += 1

    def tensors(self) -> list[Tensor]:
        """Return all tensors that an update changes."""
        return self.learner.tensors()


def poisoned_run(baseline: Baseline, at: int) -> tuple[PoisonedLearner, np.ndarray]:
    """Run with update ``at`` poisoned; return its learner, and nats by position."""
    ledger = Ledger()
    learners: list[PoisonedLearner] = []

    def watch(learner: Learner) -> Learner:
        learners.append(PoisonedLearner(learner, ledger, baseline.tokens, at))
        return learners[0]

    baseline.run(TokenArray(baseline.tokens), ledger, watch)
    return learners[0], ledger.by_position(baseline.targets)


def score_before_update(
    name: str,
    baseline: Baseline,
    units: np.ndarray,
    progress: Callable[[int], None] = lambda done: None,
) -> Check:
    """Poison some updates: the scores of their own tokens, and all earlier ones, must stay.

    Some later scores in the same unit must change, because the poisoned weights must be those that
    score. Scores in other units must stay.

    Args:
        name: of the method.
        baseline: its runs over the unchanged text.
        units: (targets + 1,) of each position, what is updated separately: a document, or the
            whole text.
        progress: called with the number of poisoned updates.
    """
    updates = poisoned_run(baseline, -1)[0].updates
    if not updates:
        return Check(RULE, name, False, "nothing was learned: the text is too short")
    tried = np.unique(np.linspace(0, updates - 1, MOST_TRIALS).astype(int))
    for done, at in enumerate(tried, start=1):
        fault = fault_of_update(baseline, int(at), units)
        if fault:
            return Check(RULE, name, False, fault)
        progress(done)
    found = f"{len(tried)} of {updates} updates poisoned, no earlier score moved"
    return Check(RULE, name, True, found)


def fault_of_update(baseline: Baseline, at: int, units: np.ndarray) -> str:
    """Poison update ``at`` and say how the run breaks the rule; empty if it keeps it."""
    learner, nats = poisoned_run(baseline, at)
    if learner.unscored or learner.foreign:
        found = f"{learner.unscored} tokens learned before they were scored, "
        return found + f"{learner.foreign} that are not the text's"
    moved = ~(baseline.moved(nats) <= baseline.allowed)
    later = later_in_unit(learner.positions, units)
    if (moved & ~later).any():
        target = int(np.flatnonzero(moved & ~later)[0])
        return f"the score of target {target} used what was learned of it, or forgets nothing"
    if later.any() and not np.isnan(nats[later]).any():
        return "what learns is not what scores: poison had no effect"
    return ""


def later_in_unit(used: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return (targets + 1,) bool: positions after the last one ``used`` in the units of those."""
    last = np.full(units.max() + 1, len(units))
    np.minimum.at(last, units[used], -1)
    np.maximum.at(last, units[used], used)
    return np.arange(len(units)) > last[units]
