"""C1 on a random text: nobody foresees random tokens, so their ranks are those of chance.

A run of test-time training holds the whole text. If it uses a target's own token, and remembers
which it was, scoring the place again agrees with it. Among all tokens by their probability, the one
that a uniform draw chose has any rank equally often, whatever was learned before it.
"""

import math

import numpy as np

from evaluation.audit.runs import Check

RULE = "C1 random text"
FARTHEST = 6.0  # standard errors of the mean rank; a chance of 1e-9


def random_text(
    tokens: np.ndarray, vocab_size: int, bos: int, draw: np.random.Generator
) -> np.ndarray:
    """Return a copy (N,) of tokens in which all but BOS are drawn from all tokens but BOS."""
    drawn = draw.integers(0, vocab_size - 1, len(tokens))
    return np.where(tokens == bos, bos, drawn + (drawn >= bos)).astype(tokens.dtype)


def unforeseen(name: str, targets: np.ndarray, again: np.ndarray, bos: int) -> Check:
    """Compare the mean rank of random targets with one half.

    Args:
        name: of the method.
        targets: (P,) tokens, uniformly drawn from all but BOS.
        again: (P, V) nats of all tokens at their places.
        bos: the token that was not drawn.
    """
    if not len(targets):
        return Check(RULE, name, None, "no places to try")
    others = np.delete(again, bos, axis=1)
    own = np.take_along_axis(again, targets[:, None].astype(np.int64), 1)
    ranks = ((others < own).sum(1) + ((others == own).sum(1) - 1) / 2) / (others.shape[1] - 1)
    error = 1 / math.sqrt(12 * len(ranks))
    mean = float(ranks.mean())
    found = f"{len(ranks):,} random targets: mean rank {mean:.3f}, by chance 0.5 +- {error:.3f}"
    passed = np.isfinite(own).all() and mean > 0.5 - FARTHEST * error
    return Check(RULE, name, bool(passed), found)
