"""C3 catches a score that uses what was learned of its own token."""

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.audit.one_pass import one_pass
from evaluation.audit.score_first import fault_of_update, later_in_unit, score_before_update
from evaluation.score import Record, Score, Tokens
from evaluation.ttt.learner import Watch
from evaluation.ttt.lora import Adapters
from evaluation.ttt.sgd import learning_weights
from tests.evaluation.audit.runs import (
    BOTH,
    LORA,
    SGD,
    WHOLE,
    adapting_run,
    baseline,
    broken,
    causal,
    phases_of,
    training_first,
    units_of,
)
from tests.evaluation.network import BYTES, CPU, LENGTH, small_settings, trained


def test_train_then_score_is_caught_by_its_order_by_poison_and_by_cuts():
    honest, cheat = (baseline(training_first(f"{first} first")) for first in ("score", "train"))
    assert score_before_update("honest", honest, WHOLE).passed
    broken(score_before_update("cheat", cheat, WHOLE), "192 tokens learned before they were scored")
    broken(causal(training_first("train first")), "moved by")


def test_train_then_score_that_lies_about_its_order_is_caught_by_poison():
    """It records an honest score, and then, as the final one, what it learned."""
    run = training_first("rescore")
    found = baseline(run)
    broken(score_before_update("cheat", found, WHOLE), "used what was learned of it")
    broken(one_pass("cheat", found, WHOLE, BYTES), "with several")


def test_a_learner_that_gets_other_tokens_than_it_says_is_caught():
    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        class Ahead:
            def __init__(self, learner) -> None:
                self.learner, self.tensors, self.score = learner, learner.tensors, learner.score

            def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
                ahead = text.read(int(positions[0, 0]) + 32, tokens.numel())
                rows = torch.from_numpy(ahead.astype(np.int32)).view(tokens.shape)
                self.learner.update(rows, positions, lr_scale)

        def shifted(learner):
            return Ahead(watch(learner))

        return adapting_run(SGD)(text, record, shifted)

    broken(score_before_update("ahead", baseline(run), WHOLE), "not the text's")


def test_poison_without_an_effect_is_no_proof():
    """What is shown to the audit is not what scores."""
    other = trained(SGD)

    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        def decoy(learner):
            with learning_weights(other, "reference", SGD, LENGTH, CPU) as shown:
                return watch(shown)

        return adapting_run(SGD)(text, record, decoy)

    broken(score_before_update("decoy", baseline(run), WHOLE), "poison had no effect")


def test_adapters_that_are_not_reset_are_caught(monkeypatch: pytest.MonkeyPatch):
    forget = Adapters.reset

    def once(adapters: Adapters, documents: int) -> None:
        before = [tensor.clone() for tensor in adapters.tensors()]
        forget(adapters, documents)
        for tensor, old in zip(adapters.tensors(), before, strict=True):
            tensor.copy_(old)

    monkeypatch.setattr(Adapters, "reset", once)
    kept = baseline(adapting_run(LORA))
    broken(score_before_update("kept", kept, units_of(LORA)), "forgets nothing")


def test_what_a_phase_learns_may_not_move_the_phase_itself(monkeypatch: pytest.MonkeyPatch):
    """The adapters' first matrices are handed on within a phase, from batch to batch."""
    keep = Adapters.keep

    def at_once(adapters: Adapters) -> None:
        keep(adapters)
        adapters.warm()

    monkeypatch.setattr(Adapters, "keep", at_once)
    settings = small_settings(**{**BOTH.model_dump(), "ttt_lora_documents": 1})
    kept = baseline(adapting_run(settings))
    found = fault_of_update(kept, 0, units_of(settings), phases_of(settings))
    assert "forgets nothing" in found


def test_later_places_are_those_of_the_units_that_were_taught():
    units = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    later = later_in_unit(np.array([2, 4, 5]), units)
    assert np.flatnonzero(later).tolist() == [3, 6]
