"""Pooling: what agents estimate of one change becomes one number of standard errors over zero."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from swarm.agents.base import Bid, Estimate


class Combined(NamedTuple):
    """Estimates of one change: its mean gain, the variance of that, and of the parts added."""

    mean: float
    variance: float
    added: float

    @property
    def z(self) -> float:
        """Return by how many standard errors the change is better than none."""
        return self.mean / math.sqrt(self.variance + self.added)


def pooled(bids: Iterable[Bid], answers: Iterable[Estimate]) -> float:
    """Return by how many standard errors a change is better than none; NaN if that is no number.

    Args:
        bids: for the same change.
        answers: of the other agents.
    """
    return combined([*(Estimate(bid.gain, bid.sd) for bid in bids), *answers]).z


def combined(estimates: Iterable[Estimate]) -> Combined:
    """Combine estimates of one change; NaN if one is no number.

    Estimates of one gain are weighted by their inverse variances: ``sum(g/v) / sqrt(sum(1/v))``
    standard errors over zero. Parts that the bids leave out, such as the price of time, add to the
    gain, and their variances to its variance. If a small and well-known price were one more
    estimate of the gain, it would outweigh any gain.
    """
    precision = weighted = gain = variance = 0.0
    for each, sd, added in estimates:
        square = sd * sd
        if not (math.isfinite(each) and square > 0):
            return Combined(math.nan, math.nan, math.nan)
        if added:
            gain += each
            variance += square
        else:
            precision += 1 / square
            weighted += each / square
    return Combined(weighted / precision + gain, 1 / precision, variance)


def confidence(z: float) -> float:
    """Return the chance that a change so many standard errors over zero is better than none."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
