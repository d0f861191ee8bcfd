"""C3, score before update: no score uses weights that were updated on its own token."""

from collections.abc import Callable

import numpy as np

from evaluation.audit.runs import Baseline, Check

RULE = "C3 score before update"
MOST_TRIALS = 8  # updates that are poisoned


def score_before_update(
    name: str,
    baseline: Baseline,
    units: np.ndarray,
    phases: np.ndarray | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Check:
    """Poison some updates: the scores of their own tokens, and all earlier ones, must stay.

    Some later scores in the same unit must change, because the poisoned weights must be those that
    score. Scores in other units must stay, but for those of later phases.

    Args:
        name: of the method.
        baseline: its runs over the unchanged text.
        units: (targets + 1,) of each position, what is updated separately: a document, or the
            whole text.
        phases: (targets + 1,) of each position; what is learned in one may move all later ones.
            None: one phase.
        progress: called with the number of poisoned updates.
    """
    updates = baseline.seen.updates
    phases = np.zeros_like(units) if phases is None else phases
    if baseline.fault:
        return Check(RULE, name, False, baseline.fault)
    if not updates:
        return Check(RULE, name, None, "nothing was learned: the text is too short")
    tried = np.unique(np.linspace(0, updates - 1, MOST_TRIALS).astype(int))
    for done, at in enumerate(tried, start=1):
        fault = fault_of_update(baseline, int(at), units, phases)
        if fault:
            return Check(RULE, name, False, fault)
        progress(done)
    found = f"{len(tried)} of {updates} updates poisoned, no earlier score moved"
    return Check(RULE, name, True, found)


def fault_of_update(baseline: Baseline, at: int, units: np.ndarray, phases: np.ndarray) -> str:
    """Poison update ``at`` and say how the run breaks the rule; empty if it keeps it."""
    seen = baseline.run(baseline.tokens, at)
    nats = seen.by_position(baseline.targets)
    if seen.unscored or seen.foreign:
        found = f"{seen.unscored} tokens learned before they were scored, "
        return found + f"{seen.foreign} that are not the text's"
    moved = ~(baseline.moved(nats) <= baseline.allowed)
    later = later_in_unit(seen.poisoned, units)
    later |= phases > phases[seen.poisoned].max(initial=0)
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
