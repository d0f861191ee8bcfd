"""Which average of the weights, and how much of it: chosen by the loss on held-out windows.

How long an average should be, and whether it helps at all, depends on a run's length and rates, so
no setting knows it beforehand; a few forward passes do.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.held_out import differences, mean_and_error

Weights = Mapping[str, Tensor]
Nats = Sequence[float]

SHARES = (0.5, 1.0)  # of an average that are scored; 0 is the live weights, of which there is one
MOST_SHARE = 1.2
REFINED = 2  # averages whose best share is scored, too
EMBEDDINGS = (0.0, 1.0)  # shares that are scored in embeddings and head alone
ERRORS = 2.0  # standard errors by which another choice must be better


class Blend(NamedTuple):
    """Live weights and an average, mixed.

    average: its name.
    share: of the average.
    embedding: the same in embeddings, tables and head.
    """

    average: str
    share: float
    embedding: float

    @property
    def name(self) -> str:
        """What logs call it."""
        if not self.share and not self.embedding:
            return "raw"
        tables = "" if self.embedding == self.share else f", {self.embedding:.2f} in embeddings"
        return f"{self.share:.2f} {self.average}{tables}"


class Readout:
    """Scores blends of the live weights with several averages.

    Args:
        score: returns the nats of each held-out window with given weights; empty: the live ones.
        live: the run's last weights by name.
        averages: by name, whole tensors by name.
        embeddings: names of embeddings, tables and heads.

    Attributes:
        scored: nats by window of each blend.
    """

    def __init__(
        self,
        score: Callable[[Weights], Nats],
        live: Weights,
        averages: Mapping[str, Weights],
        embeddings: Collection[str],
    ) -> None:
        self._score, self._live = score, live
        self._averages, self._embeddings = averages, embeddings
        self.scored: dict[Blend, Nats] = {}

    def weights(self, blend: Blend) -> dict[str, Tensor]:
        """Return a blend's weights by name."""
        average = self._averages[blend.average]
        shares = dict.fromkeys(self._embeddings, blend.embedding)
        with torch.no_grad():
            return {
                name: live.lerp(average[name], shares.get(name, blend.share))
                for name, live in self._live.items()
            }

    def search(self, raw: Nats) -> Blend:
        """Return the best of the blends that are scored.

        Args:
            raw: nats of the live weights by window.
        """
        for average in self._averages:
            self.scored[Blend(average, 0.0, 0.0)] = raw
            for share in SHARES:
                self._add(Blend(average, share, share))
        refined = [(*self._predicted(average), average) for average in self._averages]
        for _, share, average in sorted(refined)[:REFINED]:
            self._add(Blend(average, share, share))
        best = self.best()
        if best.share:
            for embedding in EMBEDDINGS:
                self._add(best._replace(embedding=embedding))
        return self.best()

    def best(self) -> Blend:
        """Return the blend with the least mean loss."""
        return min(self.scored, key=lambda blend: mean_of(self.scored[blend]))

    def _add(self, blend: Blend) -> None:
        if blend not in self.scored:
            self.scored[blend] = self._score(self.weights(blend))

    def _predicted(self, average: str) -> tuple[float, float]:
        """Return the least loss that a parabola through three shares has, and the share there."""
        raw, half, whole = (mean_of(self.scored[Blend(average, s, s)]) for s in (0.0, *SHARES))
        slope, curve = 4 * half - 3 * raw - whole, 2 * (raw - 2 * half + whole)
        if not math.isfinite(curve) or curve <= 0:
            return min((raw, 0.0), (whole, 1.0))
        share = min(max(-slope / (2 * curve), 0.0), MOST_SHARE)
        return raw + share * (slope + share * curve), share


def distinct(averages: Mapping[str, Weights], live: Weights) -> dict[str, Weights]:
    """Return the averages that equal neither the live weights nor an average before them.

    In a run's first steps, and after a roll-back, there are equal ones.
    """
    found = {"": live}
    for name, average in averages.items():
        if not any(all(average[w].equal(own[w]) for w in live) for own in found.values()):
            found[name] = average
    del found[""]
    return found


def mean_of(nats: Nats) -> float:
    """Return the mean loss; infinity if it is not finite."""
    mean = math.fsum(nats) / len(nats)
    return mean if math.isfinite(mean) else math.inf


def surely_better(nats: Nats, other: Nats) -> bool:
    """Return whether weights are better than others by ``ERRORS`` standard errors, in pairs."""
    if mean_of(other) == math.inf:
        return mean_of(nats) < math.inf
    mean, error = mean_and_error(differences(nats, other))
    return mean < -ERRORS * error
