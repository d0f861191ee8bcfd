"""Pooling: what agents estimate of one change becomes one number of standard errors over zero."""

import math
from collections.abc import Iterable

from swarm.agents.base import Bid, Estimate


def pooled(bids: Iterable[Bid], answers: Iterable[Estimate]) -> float:
    """Return by how many standard errors a change is better than none; NaN if that is no number.

    Estimates of one gain are weighted by their inverse variances: ``sum(g/v) / sqrt(sum(1/v))``
    standard errors over zero. Parts that the bids leave out, such as the price of time, add to the
    gain, and their variances to its variance. If a small and well-known price were one more
    estimate of the gain, it would outweigh any gain.

    Args:
        bids: for the same change.
        answers: of the other agents.
    """
    precision = weighted = gain = variance = 0.0
    parts = [(bid.gain, bid.sd, False) for bid in bids]
    for each, sd, added in (*parts, *answers):
        square = sd * sd
        if not (math.isfinite(each) and square > 0):
            return math.nan
        if added:
            gain += each
            variance += square
        else:
            precision += 1 / square
            weighted += each / square
    return (weighted / precision + gain) / math.sqrt(1 / precision + variance)


def confidence(z: float) -> float:
    """Return the chance that a change so many standard errors over zero is better than none."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
