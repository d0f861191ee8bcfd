"""What the checks share: a verdict, and runs of a score to compare with."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evaluation.audit.observing import Seen

# (tokens, the update that is poisoned or -1) -> what was seen of a run over them.
Run = Callable[[np.ndarray, int], Seen]

STILL = 1e-6  # nats by which a score may move if two equal runs agree bit for bit
NOISES = 4  # allowed differences, as a multiple of the difference between two equal runs
VERDICTS = {True: "holds", False: "BROKEN", None: "unknown"}
CEILING = 1e-3  # nats: two equal runs that differ by more say nothing


@dataclass(frozen=True)
class Check:
    """The verdict of one check.

    Attributes:
        name: of the rule.
        subject: what was checked.
        passed: None if there was nothing to check.
        found: one line.
    """

    name: str
    subject: str
    passed: bool | None
    found: str

    def line(self, of: str = "") -> str:
        """Return the check as a line of text, of its subject or of another name."""
        said = VERDICTS[self.passed]
        return f"{said:8} {self.name:18} {of or self.subject:12} {self.found}"


class Baseline:
    """Two runs over the unchanged text: what to compare with, and how far equal runs differ.

    Attributes:
        tokens, targets: the text, and how many targets it has.
        seen: of the first run.
        nats: (targets + 1,) of the first run, by position.
        allowed: (targets + 1,) nats by which each score may differ from the first run's.
        fault: says that equal runs differ too much for any check; empty if they do not.
    """

    def __init__(self, run: Run, tokens: np.ndarray) -> None:
        self.run, self.tokens, self.targets = run, tokens, len(tokens) - 1
        self.seen = run(tokens, -1)
        self.nats = self.seen.by_position(self.targets)
        noise = self.moved(self.scores(tokens))
        self.allowed = np.minimum(np.maximum(STILL, NOISES * noise), CEILING)
        self.fault = ""
        if not noise.max(initial=0.0) <= CEILING:  # false of NaN
            self.fault = f"two equal runs differ by {largest(noise):.1e} nats"

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """Return (targets + 1,) nats by position of a run over other tokens."""
        return self.run(tokens, -1).by_position(self.targets)

    def moved(self, nats: np.ndarray) -> np.ndarray:
        """Return (targets + 1,) by how far scores differ from ``self.nats``; 0 without a score."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(self.nats), np.abs(nats - self.nats), 0.0)


def largest(amounts: np.ndarray) -> float:
    """Return the largest finite amount, 0 if there is none."""
    finite = amounts[np.isfinite(amounts)]
    return float(finite.max(initial=0.0))
