"""Places are scored again by batches of the run's shape, and only their own rows are completed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.audit.observing import Again, Observer
from evaluation.ttt.documents import DocumentPlan, find_documents
from evaluation.ttt.lora import Adapters
from tests.evaluation.audit.runs import LORA, TOKENS, adapting_run
from tests.evaluation.network import BOS, VOCAB, split_of

Shape = tuple[int, ...]


def test_adapters_get_the_shapes_of_the_chunks_that_they_read(monkeypatch: pytest.MonkeyPatch):
    """Other shapes compiled kernels anew, and every row of a chunk was completed."""
    places = np.arange(3, len(TOKENS), 5)
    documents = find_documents(split_of(TOKENS).stream, len(TOKENS) - 1, BOS)
    firsts = np.array([document.first for document in documents])
    first = firsts[np.searchsorted(firsts, places, "left") - 1]
    starts = first + DocumentPlan.of(LORA).start(places - first)
    shapes: list[tuple[Shape, Shape]] = []
    chunks: list[Shape] = []
    read = Adapters.read

    def noted(adapters: Adapters, tokens: Tensor, *hints: Tensor) -> Tensor:
        chunks.append((len(tokens), tokens.size(1) - 1))
        return read(adapters, tokens, *hints)

    def distribution(inputs: Tensor, rows: Tensor, last: Tensor) -> Tensor:
        shapes.append((tuple(inputs.shape), chunks[-1]))
        assert len(set(rows.tolist())) == len(rows)
        seen.extend(inputs[rows, last].tolist())
        for row, at in zip(rows.tolist(), last.tolist(), strict=True):
            assert not inputs[row, at + 1 :].any()
        return torch.zeros(len(rows), VOCAB)

    seen: list[int] = []
    monkeypatch.setattr(Adapters, "read", noted)
    again = Again(TOKENS, places, starts, distribution, by_row=True)
    found = Observer(TOKENS, again=again).of(adapting_run(LORA))
    assert found.places.tolist() == places.tolist() and found.again.shape == (len(places), VOCAB)
    assert all(given == chunk for given, chunk in shapes)
    assert sorted(seen) == sorted(TOKENS[places - 1].tolist())


def test_what_is_scored_is_told_while_it_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("evaluation.audit.observing.EVERY", 0.0)
    told: list[float] = []
    Observer(TOKENS, tell=told.append).of(adapting_run(LORA))
    assert told == sorted(told) and 0 < told[0] < 0.5 and told[-1] == 1
