"""Hints against a count by hand, and the tilt as a distribution."""

from collections import Counter

import numpy as np
import torch

from evaluation.audit.observing import TokenArray
from evaluation.score import Scoring
from evaluation.ttt.methods import score_adapting
from evaluation.ttt.tilt import COUNT_BITS, LEAST, ORDERS, SHARE, Hints, certain, tilted
from tests.evaluation.network import BOS, CPU, Scores, small_settings, split_of, trained


def repeating(count: int, seed: int) -> np.ndarray:
    """(count,) uint16: documents of a few phrases, over and over in random order."""
    draw = np.random.default_rng(seed)
    phrases = [draw.integers(2, 40, draw.integers(6, 12)) for _ in range(5)]
    parts, length = [], 0
    while length < count:
        chosen = [phrases[i] for i in draw.integers(0, 5, draw.integers(1, 6))]
        parts += [[BOS], *chosen]
        length += 1 + sum(map(len, chosen))
    text = np.concatenate(parts)[:count]
    noisy = draw.random(count) < 0.02
    noisy &= text != BOS
    return np.where(noisy, draw.integers(2, 40, count), text).astype(np.uint16)


def by_hand(text: np.ndarray, first: int, ends: list[int]) -> list[int]:
    """The hint of each target from ``first`` on, by counters of what came before it."""
    found, begin = [], first
    for end in ends:
        for target in range(begin + 1, end + 1):
            hint = -1
            for order in ORDERS:
                if hint >= 0 or target - order < begin:
                    continue
                context = text[target - order : target].tolist()
                counts = Counter(
                    int(text[at])
                    for at in range(order, first)
                    if text[at - order : at].tolist() == context
                )
                for token, count in counts.items():
                    if count >= LEAST and count >= SHARE * counts.total():
                        hint = token
            found.append(hint)
        begin = end
    return found


def test_hints_are_what_nearly_always_followed_in_earlier_phases():
    text = repeating(420, seed=3)
    begins = np.flatnonzero(text == BOS).tolist()
    inside = next(i for i, begin in enumerate(begins) if begin > 300)
    first, ends = begins[inside], [*begins[inside + 1 :], len(text) - 1]
    lengths = np.diff([first, *ends]).tolist()
    positions = torch.arange(first + 1, len(text))[None]
    found = Hints(TokenArray(text), first, lengths, CPU.device).at(positions)[0]
    assert found.tolist() == by_hand(text, first, ends)
    assert 10 < (found >= 0).sum() < len(found)
    other = text.copy()
    other[first + 30 :] = 2 + other[first + 30 :] % 7  # later tokens say nothing
    again = Hints(TokenArray(other), first, lengths, CPU.device).at(positions)[0]
    assert torch.equal(again[:30], found[:30])


def test_a_context_lies_in_its_own_document():
    """Those before it in a phase are scored at the same time, or later."""
    text, ends = np.array([BOS, 5, 6, 7, 8] * 12 + [BOS], np.uint16), [5] * 4
    positions = torch.arange(41, 61)[None]
    found = Hints(TokenArray(text), 40, ends, CPU.device).at(positions)[0]
    assert found.tolist() == [-1, -1, -1, 8, BOS] * 4


def test_a_context_that_came_a_million_times_stands_for_itself():
    often = (1 << COUNT_BITS) + 5
    contexts, following = (torch.tensor([a] * often + [b, b]) for a, b in ((0, 1), (3, 4)))
    assert certain(contexts, following, torch.tensor([1, 0, 2])).tolist() == [4, 3, -1]


def test_a_tilt_is_a_distribution_that_prefers_its_hint():
    logits = 3 * torch.randn(50, 40, dtype=torch.float64)
    every = -logits.log_softmax(1)
    hints = torch.randint(-1, 40, (50,))
    of_hints = every.gather(1, hints.clamp_min(0)[:, None])
    targets = torch.arange(40).expand(50, 40)
    found = tilted(every, of_hints, targets, hints[:, None], 2.0)
    torch.testing.assert_close(torch.exp(-found).sum(1), torch.ones(50, dtype=torch.float64))
    some = hints >= 0
    assert torch.equal(found[~some], every[~some])
    assert (found.gather(1, hints.clamp_min(0)[:, None]) < of_hints)[some].all()


def test_text_that_repeats_earlier_chunks_scores_better_and_the_rest_alike():
    text, scores = repeating(500, seed=4), []
    for strength in (0.0, 2.0):
        settings = small_settings(ttt_method="both", ttt_lr=0.0, ttt_tilt=strength)
        seen = Scores()
        scoring = Scoring(CPU, record=seen)
        score_adapting(trained(settings), "reference", split_of(text), settings, scoring)
        scores.append(seen.by_position())
    plain, better = scores
    moved = plain != better
    assert moved[64:].any() and not moved[:64].any()
    assert better.mean() < plain.mean() - 0.01
