"""Each check holds for honest evaluations and catches a cheat planted for it."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.audit.checks import (
    Check,
    Clean,
    Run,
    before_update,
    causality,
    later_in_unit,
    normalised,
    one_pass,
)
from evaluation.score import Record, Score, Tokens
from evaluation.ttt.documents import find_documents
from evaluation.ttt.methods import Watch, score_adapting
from evaluation.ttt.weights import chunk_windows, learning_weights
from evaluation.windows import evaluate
from model.gpt import GPT
from settings import Settings
from tests.evaluation.small import (
    BOS,
    BYTES,
    CPU,
    LENGTH,
    VOCAB,
    Split,
    small_settings,
    tokens_of_documents,
    trained,
)

TOKENS = tokens_of_documents(230, seed=6, longest=40)
CUTS = [*range(0, 228, 23), 63, 64, 65, *(np.flatnonzero(TOKENS == BOS)[1:4] - 1).tolist()]
WHOLE = np.zeros(len(TOKENS), np.int64)
SGD, LORA = small_settings(ttt_epochs=1), small_settings(ttt_method="lora")


def windows_run(score_fn: Callable | None = None, changed: Callable = lambda score: score) -> Run:
    """Sliding evaluation, of a cheat or with a result that is tampered with."""
    score_fn = score_fn or trained(SGD).score

    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        score = evaluate(
            score_fn,
            text,
            BYTES,
            seq_len=LENGTH,
            stride=4,
            batch_windows=5,
            world=CPU,
            record=record,
        )
        return changed(score)

    return run


def adapting_run(settings: Settings, model: GPT | None = None) -> Run:
    """Test-time training as it is."""
    model = model or trained(settings)

    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        return score_adapting(
            model, "reference", text, BYTES, settings, world=CPU, record=record, watch=watch
        )

    return run


def units_of(settings: Settings) -> np.ndarray:
    units = WHOLE.copy()
    if settings.ttt_method == "lora":
        for number, document in enumerate(find_documents(Split(TOKENS), len(TOKENS) - 1, BOS)):
            units[document.first + 1 : document.last + 1] = number
    return units


def causal(run: Run) -> Check:
    return causality("run", Clean(run, TOKENS), sorted(CUTS), VOCAB, BOS)


def broken(check: Check, *words: str) -> None:
    assert check.passed is False, check
    for word in words:
        assert word in check.found


@pytest.mark.parametrize("settings", [SGD, LORA], ids=["sgd", "lora"])
def test_honest_test_time_training_passes_every_check(settings: Settings):
    clean, units = Clean(adapting_run(settings), TOKENS), units_of(settings)
    assert clean.allowed == pytest.approx(1e-6)
    for check in (
        causality("TTT", clean, sorted(CUTS), VOCAB, BOS),
        before_update("TTT", clean, units),
        one_pass("TTT", clean, units, BYTES),
    ):
        assert check.passed, check


def test_honest_windows_pass_every_check():
    clean, model = Clean(windows_run(), TOKENS), trained(SGD)
    contexts = torch.from_numpy(TOKENS[:48].astype(np.int32)).view(4, 12)
    for check in (
        causality("windows", clean, sorted(CUTS), VOCAB, BOS),
        one_pass("windows", clean, WHOLE, BYTES),
        normalised("windows", model.score, contexts, VOCAB),
    ):
        assert check.passed, check


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


def test_a_run_that_reads_nothing_is_no_proof():
    def constant(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, math.log(VOCAB))

    broken(causal(windows_run(constant)), "no score after 0 read")


def test_an_unnormalised_cache_is_caught():
    """Tokens that the context holds get a bonus that the others do not pay for."""
    model = trained(SGD)

    def cached(inputs: Tensor, targets: Tensor) -> Tensor:
        nats = model.score(inputs, targets)
        seen = (inputs[:, None, :] == targets[:, :, None]).tril(inputs.size(1) - targets.size(1))
        return nats - 0.01 * seen.any(2)

    contexts = torch.from_numpy(TOKENS[:48].astype(np.int32)).view(4, 12)
    assert causal(windows_run(cached)).passed
    broken(normalised("cached", cached, contexts, VOCAB), "48 positions")
    together = normalised("cached", cached, contexts, VOCAB, at_once=7)  # 40 = 5 * 7 + 5
    assert together.found == normalised("cached", cached, contexts, VOCAB).found
    assert normalised("honest", model.score, contexts, VOCAB, at_once=7).passed


def training_first(order: str) -> Run:
    """Test-time training in chunks that learns each before it scores it, or scores it anew."""
    settings = small_settings(ttt_lr=0.05, ttt_epochs=1)

    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        model = trained(settings)
        size, targets = settings.ttt_chunk_tokens, len(text) - 1
        with learning_weights(model, "reference", settings, CPU) as weights:
            learner = watch(weights)
            for begin in range(0, targets, size):
                whole = begin + size <= targets
                if order != "train first":
                    score_plainly(model, text, begin, size, record)
                if whole:
                    learner.learn(*chunk_windows(text, begin, size, LENGTH, CPU.device), 1.0)
                if order != "score first":
                    score_plainly(model, text, begin, size, record)
        return windows_run()(text, lambda places, nats: None, watch)

    return run


@torch.inference_mode()
def score_plainly(model: GPT, text: Tokens, begin: int, size: int, record: Record) -> None:
    for start in range(begin, min(begin + size, len(text) - 1), LENGTH):
        tokens = text.read(start, min(LENGTH + 1, len(text) - start)).astype(np.int32)
        row = torch.from_numpy(tokens)[None]
        places = torch.arange(start + 1, start + len(tokens))
        record(places, model.score(row[:, :-1].contiguous(), row[:, 1:].contiguous())[0])


def test_train_then_score_is_caught_by_its_order_by_poison_and_by_cuts():
    assert before_update("honest", Clean(training_first("score first"), TOKENS), WHOLE).passed
    clean = Clean(training_first("train first"), TOKENS)
    broken(before_update("cheat", clean, WHOLE), "192 tokens learned before they were scored")
    broken(causal(training_first("train first")), "moved by")


def test_train_then_score_that_lies_about_its_order_is_caught_by_poison():
    """It records an honest score, and then, as the final one, what it learned."""
    run = training_first("rescore")
    broken(before_update("cheat", Clean(run, TOKENS), WHOLE), "used what was learned of it")
    broken(one_pass("cheat", Clean(run, TOKENS), WHOLE, BYTES), "with several")


def test_a_learner_that_gets_other_tokens_than_it_says_is_caught():
    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        class Ahead:
            def __init__(self, learner) -> None:
                self.learner, self.tensors = learner, learner.tensors

            def learn(self, tokens: Tensor, places: Tensor, rate: float) -> None:
                ahead = text.read(int(places[0, 0]) + 32, tokens.numel())
                rows = torch.from_numpy(ahead.astype(np.int32)).view(tokens.shape)
                self.learner.learn(rows, places, rate)

        def shifted(learner):
            return Ahead(watch(learner))

        return adapting_run(SGD)(text, record, shifted)

    broken(before_update("ahead", Clean(run, TOKENS), WHOLE), "not the text's")


def test_poison_without_an_effect_is_no_proof():
    """What is shown to the audit is not what scores."""
    other = trained(SGD)

    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        def decoy(learner):
            with learning_weights(other, "reference", SGD, CPU) as shown:
                return watch(shown)

        return adapting_run(SGD)(text, record, decoy)

    broken(before_update("decoy", Clean(run, TOKENS), WHOLE), "poison had no effect")


def test_adapters_that_are_not_reset_are_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("evaluation.ttt.adapters.Adapters.reset", lambda adapters: None)
    clean = Clean(adapting_run(LORA), TOKENS)
    broken(before_update("kept", clean, units_of(LORA)), "forgets nothing")


def rescored(places: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat((places, places[:1])), torch.cat((nats, nats[:1]))


def backwards(places: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
    return places.flip(0), nats.flip(0)


def without_tail(places: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
    kept = places < 220
    return places[kept], nats[kept]


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
        return windows_run()(text, lambda places, nats: record(*tamper(places, nats)), watch)

    broken(one_pass("cheat", Clean(run, TOKENS), WHOLE, BYTES), words)


@pytest.mark.parametrize("field", ["nats", "bpb", "tokens", "bytes"])
def test_a_score_that_is_not_the_sum_of_its_scores_is_caught(field: str):
    """As a byte counted twice would be."""

    def more(score: Score) -> Score:
        return dataclasses.replace(score, **{field: getattr(score, field) + 1})

    clean = Clean(windows_run(changed=more), TOKENS)
    broken(one_pass("cheat", clean, WHOLE, BYTES), "but the scores make")


def test_what_is_not_a_number_passes_nothing():
    def nothing(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, math.nan)

    clean = Clean(windows_run(nothing), TOKENS)
    assert one_pass("NaN", clean, WHOLE, BYTES).passed is False
    assert causality("NaN", clean, CUTS[:2], VOCAB, BOS).passed is False
    contexts = torch.ones(1, 4, dtype=torch.int32)
    assert normalised("NaN", nothing, contexts, VOCAB).passed is False


def test_later_places_are_those_of_the_units_that_were_taught():
    units = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    later = later_in_unit(np.array([2, 4, 5]), units)
    assert np.flatnonzero(later).tolist() == [3, 6]
