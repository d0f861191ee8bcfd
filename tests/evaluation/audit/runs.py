"""Runs for the checks: honest ones, and cheats."""

from collections.abc import Callable

import numpy as np
import torch

from evaluation.audit.causality import causality
from evaluation.audit.observing import Observer, Run, TokenArray
from evaluation.audit.runs import Baseline, Check
from evaluation.score import Record, Score, Scoring, Split, Tokens
from evaluation.ttt.documents import find_documents
from evaluation.ttt.learner import Watch
from evaluation.ttt.methods import score_adapting
from evaluation.ttt.sgd import chunk_windows, learning_weights
from evaluation.windows import WindowPlan, evaluate
from model.gpt import GPT
from settings import Settings
from tests.evaluation.network import (
    BOS,
    BYTES,
    CPU,
    LENGTH,
    VOCAB,
    small_settings,
    tokens_of_documents,
    trained,
)

TOKENS = tokens_of_documents(230, seed=6, longest=40)
CUTS = [*range(0, 228, 23), 63, 64, 65, *(np.flatnonzero(TOKENS == BOS)[1:4] - 1).tolist()]
WHOLE = np.zeros(len(TOKENS), np.int64)
SGD, LORA = small_settings(ttt_epochs=1), small_settings(ttt_method="lora")
BOTH = small_settings(
    ttt_method="both", ttt_epochs=1, ttt_batch_seqs=2, ttt_lora_documents=16, ttt_lora_chunk=12
)


def windows_run(score_fn: Callable | None = None, changed: Callable = lambda score: score) -> Run:
    """Sliding evaluation, of a cheat or with a result that is tampered with."""
    score_fn = score_fn or trained(SGD).score

    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        split, scoring = Split(text, BYTES), Scoring(CPU, record=record)
        score = evaluate(score_fn, split, WindowPlan(LENGTH, 4, batch=5), scoring)
        return changed(score)

    return run


def adapting_run(settings: Settings, model: GPT | None = None) -> Run:
    """Test-time training as it is."""
    model = model or trained(settings)

    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        split, scoring = Split(text, BYTES), Scoring(CPU, record=record)
        return score_adapting(model, "reference", split, settings, scoring, watch)

    return run


def units_of(settings: Settings) -> np.ndarray:
    units = WHOLE.copy()
    if settings.ttt_method != "sgd":
        for number, document in enumerate(find_documents(TokenArray(TOKENS), len(TOKENS) - 1, BOS)):
            units[document.first + 1 : document.last + 1] = number
    return units


def phases_of(settings: Settings) -> np.ndarray:
    found = WHOLE.copy()
    if settings.ttt_method == "both":
        for document in find_documents(TokenArray(TOKENS), len(TOKENS) - 1, BOS):
            chunk = document.first // settings.ttt_chunk_tokens
            found[document.first + 1 : document.last + 1] = chunk
    return found


def baseline(run: Run, tokens: np.ndarray = TOKENS) -> Baseline:
    """Two runs, and what the checks ask for further ones, in this process."""
    return Baseline(lambda text, poison: Observer(text, poison).of(run), tokens)


def causal(run: Run) -> Check:
    return causality("run", baseline(run), sorted(CUTS), VOCAB, BOS)


def broken(check: Check, *words: str) -> None:
    assert check.passed is False, check
    for word in words:
        assert word in check.found


def training_first(order: str) -> Run:
    """Test-time training in chunks that learns each before it scores it, or scores it anew."""
    settings = small_settings(ttt_lr=0.05, ttt_epochs=1)

    def run(text: Tokens, record: Record, watch: Watch) -> Score:
        model = trained(settings)
        size, targets = settings.ttt_chunk_tokens, len(text) - 1
        with learning_weights(model, "reference", settings, LENGTH, CPU) as weights:
            learner = watch(weights)
            for begin in range(0, targets, size):
                whole = begin + size <= targets
                if order != "train first":
                    score_plainly(model, text, begin, size, record)
                if whole:
                    learner.update(*chunk_windows(text, begin, size, LENGTH, CPU.device), 1.0)
                if order != "score first":
                    score_plainly(model, text, begin, size, record)
        return windows_run()(text, lambda *seen: None, watch)

    return run


@torch.inference_mode()
def score_plainly(model: GPT, text: Tokens, begin: int, size: int, record: Record) -> None:
    for start in range(begin, min(begin + size, len(text) - 1), LENGTH):
        tokens = text.read(start, min(LENGTH + 1, len(text) - start)).astype(np.int32)
        row = torch.from_numpy(tokens)[None]
        positions = torch.arange(start + 1, start + len(tokens))
        nats = model.score(row[:, :-1].contiguous(), row[:, 1:].contiguous())[0]
        record(positions, nats, torch.ones_like(positions, dtype=torch.bool))
