"""Chunks replayed as graphs against chunks launched, and the optimizer against PyTorch's."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.score import Scoring, Tally
from evaluation.ttt.chunk_steps import MOST_SHAPES
from evaluation.ttt.documents import DocumentPlan, deal, find_documents, score_documents
from evaluation.ttt.lora import Adapters, document_adapters
from evaluation.ttt.phases import hints_of
from evaluation.ttt.row_optimizer import RowOptimizer
from tests.evaluation.network import (
    BOS,
    CPU,
    AskedAgain,
    Scores,
    small_settings,
    split_of,
    trained,
)
from tests.evaluation.ttt.test_tilt import repeating
from tests.training.recorded_graphs import RecordedGraphs, Recording

TOKENS = repeating(300, seed=9)


class Captures(RecordedGraphs):
    """Graphs whose capture, which runs the launches here, changes nothing of the adapters."""

    adapters: Adapters

    def record(self, function: Callable[[], Tensor]) -> tuple[Recording, Tensor]:
        adapters = self.adapters
        of_optimizer = [*adapters.optimizer.memory, adapters.optimizer.steps]
        state = [*adapters.tensors(), *of_optimizer, adapters.reader.cache]
        before = [tensor.clone() for tensor in state]
        found = super().record(function)
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(old)
        return found


@pytest.mark.parametrize(
    "changes",
    [
        {"ttt_method": "both", "ttt_tilt": 2.0},
        {"ttt_lora_epochs": 2, "ttt_lora_optimizer": "sgd", "ttt_lora_weight_decay": 0.5},
    ],
    ids=["adam, tilted", "two epochs of sgd"],
)
def test_replayed_chunks_are_launched_ones(changes: dict[str, object]):
    """With adapters of every batch handed on to the next one, which reads the same addresses."""
    settings = small_settings(**{"ttt_method": "lora", "ttt_lora_documents": 2, **changes})
    split, plan = split_of(TOKENS), DocumentPlan.of(settings)
    documents = find_documents(split.stream, split.targets, BOS)
    found = []
    for graphs in (None, Captures()):
        scores = Scores()
        tally = Tally(split, Scoring(CPU, record=scores))
        with document_adapters(trained(settings), settings, CPU, graphs) as adapters:  # pyright: ignore[reportArgumentType]
            if graphs:
                graphs.adapters = adapters
            for some in (documents[:6], documents[6:]):
                hints = hints_of(some, split.stream, settings, CPU.device)
                score_documents(adapters, adapters, split.stream, some, plan, tally, hints)
                adapters.warm()
            assert hints is None or (hints.found >= 0).any()
        found.append(scores.by_position())
    np.testing.assert_array_equal(*found)
    assert graphs is not None
    assert 4 <= len(graphs.recorded) <= 2 * MOST_SHAPES
    assert all(recording.replays for recording in graphs.recorded[::2])


def test_states_that_are_asked_for_between_both_steps_are_what_was_read():
    """Replayed or launched; they leave no trace."""
    settings = small_settings(ttt_method="lora", ttt_lora_documents=2, eval_seq_len=64)
    split, plan = split_of(TOKENS), DocumentPlan.of(settings)
    documents = find_documents(split.stream, split.targets, BOS)
    found: list[np.ndarray] = []
    for graphs, record in (
        (None, None),
        (None, AskedAgain(TOKENS, CPU.device)),
        (Captures(), AskedAgain(TOKENS, CPU.device)),
    ):
        tally = Tally(split, Scoring(CPU, record=record))
        with document_adapters(trained(settings), settings, CPU, graphs) as adapters:  # pyright: ignore[reportArgumentType]
            if record:
                record.watch(adapters)
            if graphs:
                graphs.adapters = adapters
            score_documents(adapters, adapters, split.stream, documents, plan, tally)
            assert graphs is None or len(adapters.replayed.captured) > 2
        found.append(tally.of_targets.numpy())
        assert record is None or (len(record.off) > 20 and max(record.off) <= 1e-5)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_a_dry_run_computes_no_gradients_of_weights():
    """It did, because they were switched off after it: other kernels, and memory of all weights."""
    settings = small_settings(ttt_method="lora")
    model, required = trained(settings).requires_grad_(True), []

    class Asked(RecordedGraphs):
        def compile(self, function: Callable[[], object]) -> None:
            required.extend(parameter.requires_grad for parameter in model.parameters())
            function()

    with document_adapters(model, settings, CPU, Asked()):  # pyright: ignore[reportArgumentType]
        assert required and not any(required)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_rows_are_updated_as_by_adamw(decay: float):
    """Rows that do not learn, and rows beyond the given ones, stay bit for bit."""
    settings = small_settings(ttt_lora_weight_decay=decay)
    banks = [torch.randn(4, 3, 2, 5).transpose(0, 1), torch.randn(4, 3, 5, 2).transpose(0, 1)]
    before = [bank.clone() for bank in banks]
    others = [bank[:, :2].clone().requires_grad_() for bank in banks]
    optimizer = RowOptimizer(banks, settings)
    optimizer.rate.fill_(0.02)
    adamw = torch.optim.AdamW(others, 0.02, (0.0, 0.99), 1e-10, decay)
    learns = torch.tensor([True, True, False])[:, None, None]
    for _ in range(4):
        gradients = [torch.randn(bank[:, :3].shape) * learns for bank in banks]
        for other, gradient in zip(others, gradients, strict=True):
            other.grad = gradient[:, :2].contiguous()
        optimizer.step(gradients, learns)
        adamw.step()
    for bank, old, other in zip(banks, before, others, strict=True):
        torch.testing.assert_close(bank[:, :2], other.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(bank[:, 2:], old[:, 2:])
    optimizer.rate.zero_()
    last = [bank.clone() for bank in banks]
    optimizer.step([torch.zeros_like(bank) for bank in banks], torch.ones(4, 1, 1).bool())
    assert all(map(torch.equal, banks, last))


def test_rows_that_learn_no_more_stay_although_they_have_momentum():
    """They moved on, so what a document made of ``down`` depended on its batch."""
    settings = small_settings(ttt_lora_optimizer="sgd", ttt_momentum=0.9)
    banks = [torch.randn(4, 3, 2, 5).transpose(0, 1)]
    optimizer = RowOptimizer(banks, settings)
    optimizer.rate.fill_(0.02)
    optimizer.step([torch.randn(3, 4, 2, 5)], torch.ones(4, 1, 1).bool())
    before, learns = banks[0].clone(), torch.tensor([True, True, False, False])[:, None, None]
    optimizer.step([torch.randn(3, 4, 2, 5) * learns], learns)
    assert torch.equal(banks[0][:, 2:], before[:, 2:])
    assert (banks[0][:, :2] != before[:, :2]).all()


def test_documents_are_dealt_by_their_targets():
    documents = find_documents(split_of(TOKENS).stream, len(TOKENS) - 1, BOS)
    shares = deal(documents, 3)
    assert sorted((d for share in shares for d in share), key=lambda d: d.first) == documents
    loads = [sum(document.targets for document in share) for share in shares]
    assert max(loads) - min(loads) < 0.1 * sum(loads)
    assert all(share == sorted(share, key=lambda d: -d.targets) for share in shares)
