"""C4 catches targets scored twice, in disorder or never, and wrong sums."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evaluation.audit.one_pass import one_pass
from evaluation.score import Record, Score, Tokens
from evaluation.ttt.learner import Watch
from tests.evaluation.audit.runs import WHOLE, baseline, broken, windows_run
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
        def tampered(positions: Tensor, nats: Tensor, is_new: Tensor) -> None:
            positions, nats = tamper(positions[is_new], nats[is_new])
            record(positions, nats, torch.ones_like(positions, dtype=torch.bool))

        return windows_run()(text, tampered, watch)

    broken(one_pass("cheat", baseline(run), WHOLE, BYTES), words)


@pytest.mark.parametrize("field", ["nats", "bpb", "tokens", "bytes"])
def test_a_score_that_is_not_the_sum_of_its_scores_is_caught(field: str):
    """As a byte counted twice would be."""

    def more(score: Score) -> Score:
        return dataclasses.replace(score, **{field: getattr(score, field) + 1})

    found = one_pass("cheat", baseline(windows_run(changed=more)), WHOLE, BYTES)
    broken(found, "but the scores make")


def test_a_record_that_is_not_what_was_scored_is_caught():
    def less(score: Score) -> Score:
        return dataclasses.replace(score, of_targets=score.of_targets * 0.98)

    broken(
        one_pass("cheat", baseline(windows_run(changed=less)), WHOLE, BYTES), "what the run keeps"
    )
