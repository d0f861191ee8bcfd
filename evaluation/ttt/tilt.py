"""A tilt to tokens that followed the same ones before: an n-gram model of the scored text.

Where a context of the last tokens was seen in what is scored, and one token h nearly always came
next, its probability rises: ``p'(a) = p(a) exp(b [a = h]) / Z`` with ``b = strength (1 - p(h))``.
Both come from tokens before the place, and Z is exact, so p' is a distribution.
"""

import numpy as np
import torch
from torch import Tensor

from evaluation.score import Tokens, to_device

ORDERS = (12, 8, 6, 5, 4)  # tokens of a context, the longest that is known first
LEAST, SHARE = 2, 0.95  # times that h followed, and of all that followed
TOKEN_BITS, COUNT_BITS = 16, 20
FACTOR, KEY = 0x9E3779B97F4A7C15 - (1 << 64), (1 << 40) - 1  # of a hash


class Hints:
    """Tokens that a phase's documents should be tilted to.

    Args:
        stream: tokens of the split; all before ``first`` are scored, and are counted.
        first: token of the phase's first document.
        lengths: targets of each of its documents, in order.
        device: of ``at``.
    """

    def __init__(
        self, stream: Tokens, first: int, lengths: list[int], device: torch.device
    ) -> None:
        self.first = first
        tokens = to_device(stream.read(0, first + sum(lengths)).astype(np.int64), device)
        inside = np.concatenate([np.arange(1, length + 1) for length in lengths])
        before = to_device(inside, device)  # tokens of a target's document that precede it
        self.found = torch.full_like(before, -1)
        for order in reversed(ORDERS):
            if first <= order:
                continue
            keys = hashed(tokens, order)
            found = certain(keys[: first - order], tokens[order:first], keys[first + 1 - order :])
            # A context of its own document alone: the ones before may not be scored yet.
            known = (before >= order) & (found >= 0)
            self.found = torch.where(known, found, self.found)

    def at(self, positions: Tensor) -> Tensor:
        """Return the tokens (N, S) int32 at positions of targets, -1 where there is none."""
        last = len(self.found) - 1
        return self.found[(positions - self.first - 1).clamp(0, last)].int()


def hashed(tokens: Tensor, order: int) -> Tensor:
    """Return (T - order + 1,) int64: a hash of the ``order`` tokens from each place on."""
    keys = torch.zeros_like(tokens[order - 1 :])
    for offset in range(order):
        keys = (keys ^ (tokens[offset : offset + len(keys)] + 1)) * FACTOR
        keys = keys ^ (keys >> 29)
    return keys & KEY


def certain(contexts: Tensor, following: Tensor, asked: Tensor) -> Tensor:
    """Return (Q,) int64: the token that nearly always followed each context asked (Q,), or -1.

    Args:
        contexts, following: (P,) each, keys and the token after each.
        asked: keys.
    """
    pairs, counts = torch.unique((contexts << TOKEN_BITS) | following, return_counts=True)
    counts = counts.clamp_max((1 << COUNT_BITS) - 1)
    keys = pairs >> TOKEN_BITS
    known, kind, kinds = torch.unique_consecutive(keys, return_inverse=True, return_counts=True)
    by_count = ((keys << COUNT_BITS) | counts).argsort()
    top = by_count[kinds.cumsum(0) - 1]  # of each key, the pair that came most often
    totals = torch.zeros_like(known).index_add_(0, kind, counts)
    sure = (counts[top] >= LEAST) & (counts[top] >= SHARE * totals)
    place = torch.searchsorted(known, asked).clamp_max(len(known) - 1)
    hit = (known[place] == asked) & sure[place]
    return torch.where(hit, pairs[top[place]] & ((1 << TOKEN_BITS) - 1), -1)


def tilted(
    nats: Tensor, of_hints: Tensor, targets: Tensor, hints: Tensor, strength: float
) -> Tensor:
    """Return the nats of targets after the tilt, all of one shape.

    Args:
        nats: of targets.
        of_hints: of the hints.
        targets, hints: tokens; a hint of -1 changes nothing.
        strength: of the tilt.
    """
    likely = torch.exp(-of_hints)
    rise = strength * (1 - likely)
    change = torch.log1p(likely * torch.expm1(rise)) - rise * (hints == targets)
    return nats + torch.where(hints >= 0, change, 0)
