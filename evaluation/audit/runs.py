"""What the checks share: runs of a score, each target's nats in order, and a verdict.

A run is any function that scores a split and records every score as it becomes final. The checks
see nothing else of it, so they hold for any method, and for one that cheats.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from evaluation.score import Record, Score, Tokens
from evaluation.ttt.learner import Watch, unwatched

Run = Callable[[Tokens, Record, Watch], Score]

STILL = 1e-6  # nats by which a score may move if two equal runs agree bit for bit
NOISES = 4  # allowed differences, as a multiple of the difference between two equal runs


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


class TokenArray:
    """Tokens in memory, as `evaluation.score.Tokens`.

    Raises:
        IndexError: a read outside of the tokens.
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return tokens [start, start + count)."""
        if start < 0 or start + count > len(self):
            raise IndexError(f"tokens [{start}, {start + count}) of a text of {len(self)}")
        return self.tokens[start : start + count]


class Ledger:
    """Every score in the order in which it became final."""

    def __init__(self) -> None:
        self._positions: list[np.ndarray] = [np.empty(0, np.int64)]
        self._nats: list[np.ndarray] = [np.empty(0)]

    def __call__(self, positions: Tensor, nats: Tensor) -> None:
        """Record scores, as `evaluation.score.Record`."""
        self._positions.append(positions.cpu().numpy().copy())
        self._nats.append(nats.double().cpu().numpy().copy())

    @property
    def positions(self) -> np.ndarray:
        """(N,) int64 in order."""
        return np.concatenate(self._positions)

    @property
    def nats(self) -> np.ndarray:
        """(N,) fp64 in order."""
        return np.concatenate(self._nats)

    def by_position(self, targets: int) -> np.ndarray:
        """Return (targets + 1,) fp64: each position's last score, infinite without one."""
        scores = np.full(targets + 1, np.inf)
        positions, nats = self.positions, self.nats
        inside = (positions >= 0) & (positions <= targets)
        scores[positions[inside]] = nats[inside]
        return scores


class Baseline:
    """Two runs over the unchanged text: what to compare with, and how far equal runs differ.

    Attributes:
        tokens, targets: the text, and how many targets it has.
        ledger, score: of the first run.
        nats: (targets + 1,) of the first run, by position.
        allowed: nats by which a score may differ from the first run's.
    """

    def __init__(self, run: Run, tokens: np.ndarray) -> None:
        self.run, self.tokens, self.targets = run, tokens, len(tokens) - 1
        self.ledger = Ledger()
        self.score = run(TokenArray(tokens), self.ledger, unwatched)
        self.nats = self.ledger.by_position(self.targets)
        self.allowed = max(STILL, NOISES * largest(self.moved(self.scores(tokens))))

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """Return (targets + 1,) nats by position of a run over other tokens."""
        ledger = Ledger()
        self.run(TokenArray(tokens), ledger, unwatched)
        return ledger.by_position(self.targets)

    def moved(self, nats: np.ndarray) -> np.ndarray:
        """Return (targets + 1,) by how far scores differ from ``self.nats``; 0 without a score."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(self.nats), np.abs(nats - self.nats), 0.0)


def largest(amounts: np.ndarray) -> float:
    """Return the largest finite amount, 0 if there is none."""
    finite = amounts[np.isfinite(amounts)]
    return float(finite.max(initial=0.0))
