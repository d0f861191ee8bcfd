"""C4 catches targets scored twice, in disorder or never, and wrong sums."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evaluation.audit.one_pass import one_pass
from evaluation.audit.runs import Baseline
from evaluation.score import Record, Score, Tokens
from evaluation.ttt.learner import Watch
from tests.evaluation.audit.runs import TOKENS, WHOLE, broken, windows_run
from tests.evaluation.network import BYTES


def rescored(positions: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat((positions, positions[:1])), torch.cat((nats, nats[:1]))


def backwards(positions: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
    return positions.flip(0), nats.flip(0)


def without_tail(positions: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
    kept = positions < 220
    return positions[kept], nats[kept]


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (rescored, "with several"),
        (backwards, "after one that follows"),
        (without_tail, "10 targets without a score"),
    ],
)
def test_rescoring_disorder_and_a_skipped_tail_are_caught(tamper: Callable, words: str):
    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        return windows_run()(text, lambda positions, nats: record(*tamper(positions, nats)), watch)

    broken(one_pass("cheat", Baseline(run, TOKENS), WHOLE, BYTES), words)


@pytest.mark.parametrize("field", ["nats", "bpb", "tokens", "bytes"])
def test_a_score_that_is_not_the_sum_of_its_scores_is_caught(field: str):
    """As a byte counted twice would be."""

    def more(score: Score) -> Score:
        return dataclasses.replace(score, **{field: getattr(score, field) + 1})

    baseline = Baseline(windows_run(changed=more), TOKENS)
    broken(one_pass("cheat", baseline, WHOLE, BYTES), "but the scores make")
