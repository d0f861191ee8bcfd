"""C1 catches a score that reads later tokens, and a run that reads none."""

import math

import numpy as np
import torch
from torch import Tensor

from evaluation.audit.causality import causality, changed_after
from evaluation.score import Record, Score, Tokens
from evaluation.ttt.learner import Watch
from tests.evaluation.audit.runs import (
    CUTS,
    LORA,
    SGD,
    TOKENS,
    adapting_run,
    baseline,
    broken,
    causal,
    windows_run,
)
from tests.evaluation.network import BOS, VOCAB, trained


def test_peeking_at_the_next_token_is_caught():
    model = trained(SGD)

    def peek(inputs: Tensor, targets: Tensor) -> Tensor:
        """A little less for a token before an even one."""
        nats = model.score(inputs, targets)
        return nats - 1e-4 * (torch.roll(targets, -1, 1) % 2 == 0)

    broken(causal(windows_run(peek)), "moved by")


def test_peeking_at_the_end_of_the_window_is_caught():
    model = trained(SGD)

    def peek(inputs: Tensor, targets: Tensor) -> Tensor:
        return model.score(inputs, targets) - 1e-4 * (targets[:, -1:] % 2 == 0)

    broken(causal(windows_run(peek)), "moved by")


def test_peeking_at_the_end_of_the_document_is_caught():
    """Other tokens after a cut seldom begin a document, so the check puts one there."""
    model = trained(SGD)

    def peek(inputs: Tensor, targets: Tensor) -> Tensor:
        """A little less for the last token of a document."""
        nats = model.score(inputs, targets)
        return nats - 1e-4 * (torch.roll(targets, -1, 1) == BOS)

    inside = [cut for cut in range(17, 200, 20) if BOS not in TOKENS[cut + 1 : cut + 3]]
    run = baseline(windows_run(peek))
    assert len(inside) > 5
    broken(causality("run", run, inside, VOCAB, BOS), "moved by")


def test_ends_of_documents_stay_where_only_text_changes():
    draw = np.random.default_rng(3)
    for cut in range(0, len(TOKENS) - 2, 5):
        changed = changed_after(TOKENS, cut, VOCAB, draw, BOS)
        others = TOKENS != BOS
        np.testing.assert_array_equal(changed == BOS, ~others)
        np.testing.assert_array_equal(changed[: cut + 1], TOKENS[: cut + 1])
        assert (changed != TOKENS)[cut + 1 :][others[cut + 1 :]].all()
        assert (changed_after(TOKENS, cut, VOCAB, draw) != TOKENS)[cut + 1 :].all()


def test_a_score_that_depends_on_another_documents_end_is_caught_if_it_is_scored_alone():
    """Rounding that depends on which documents are scored at once is no leak."""
    honest = adapting_run(LORA)

    def rounded(text: Tokens, record: Record, watch: Watch) -> Score:
        """Scores move by the number of documents, as a batch of other sizes rounds otherwise."""
        ends = float((text.read(0, len(text)) == BOS).sum())

        def shifted(positions: Tensor, nats: Tensor, is_new: Tensor) -> None:
            record(positions, nats + 1e-4 * ends, is_new)

        return honest(text, shifted, watch)

    runs, alone = baseline(rounded), baseline(honest)
    assert causality("run", runs, sorted(CUTS), VOCAB, BOS, one_by_one=alone).passed
    broken(causality("run", alone, sorted(CUTS), VOCAB, BOS, one_by_one=runs), "moved by")
    broken(causality("run", runs, sorted(CUTS), VOCAB, BOS), "moved by")


def test_a_run_that_reads_nothing_is_no_proof():
    def constant(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, math.log(VOCAB))

    broken(causal(windows_run(constant)), "no score after 0 read")
