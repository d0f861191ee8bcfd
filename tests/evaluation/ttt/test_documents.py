"""Documents and their chunks: each target once, in its own document's context."""

import numpy as np
import pytest
import torch

from evaluation.audit.observing import TokenArray
from evaluation.score import Record, Score, Scoring
from evaluation.ttt.documents import Document, DocumentPlan, alike, find_documents, load_chunk
from evaluation.ttt.learner import Learner, Watch, unwatched
from evaluation.ttt.methods import score_adapting
from settings import Settings
from tests.evaluation.network import (
    BOS,
    CPU,
    Scores,
    Watched,
    small_settings,
    split_of,
    tokens_of_documents,
    trained,
)

TOKENS = tokens_of_documents(400, seed=4)


def adapt(
    tokens: np.ndarray = TOKENS,
    settings: Settings | None = None,
    max_tokens: int = 0,
    record: Record | None = None,
    watch: Watch = unwatched,
) -> Score:
    settings = settings or small_settings(ttt_method="lora")
    return score_adapting(
        trained(settings),
        "reference",
        split_of(tokens, max_tokens),
        settings,
        Scoring(CPU, record=record),
        watch,
    )


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 5, 6, 1, 7, 8], [(0, 3), (3, 5)]),
        ([5, 6, 1, 7], [(0, 2), (2, 3)]),
        ([1, 1, 1], [(0, 1), (1, 2)]),
        ([5, 5], [(0, 1)]),
    ],
)
def test_a_document_ends_with_the_next_one_s_bos(tokens: list[int], expected: list):
    found = find_documents(TokenArray(np.array(tokens)), len(tokens) - 1, BOS)
    assert found == [Document(*ends) for ends in expected]


def test_batches_are_full_and_the_longest_documents_first():
    documents = [Document(0, length) for length in (3, 20, 8, 9, 1)]
    batches = alike(documents, 8, 3)
    lengths = [[document.last for document in batch] for batch in batches]
    assert lengths == [[20, 9, 3], [8, 1, 0]]


def test_a_chunk_s_window_stays_in_its_document():
    stream, plan = TokenArray(np.arange(100)), DocumentPlan(BOS, 8, 16, documents=3)
    documents = [Document(10, 37), Document(40, 45), Document(0, 0)]
    tokens, positions, is_new = load_chunk(stream, documents, 2, plan, CPU.device)
    assert tokens[0].tolist() == list(range(18, 35))
    assert positions[0].tolist() == list(range(27, 35))
    assert is_new.any(1).tolist() == [True, False, False]
    tokens, positions, is_new = load_chunk(stream, documents, 0, plan, CPU.device)
    assert tokens[1].tolist() == [40, 41, 42, 43, 44, 45, 0, 0, 0]
    assert positions[1][is_new[1]].tolist() == [41, 42, 43, 44, 45]
    assert not is_new[2].any() and not tokens[2].any()
    at_the_end = [Document(0, 90), Document(90, 99)]
    tokens, _, is_new = load_chunk(stream, at_the_end, 5, plan, CPU.device)
    assert tokens[0].tolist() == list(range(32, 49)) and not tokens[1].any()
    assert is_new.all(1).tolist() == [True, False]


@pytest.mark.parametrize("limit", [1, 8, 50, 399, 0])
def test_each_target_is_scored_once(limit: int):
    scores = Scores()
    found = adapt(record=scores, max_tokens=limit)
    assert sorted(scores.positions) == list(range(1, (limit or 399) + 1))
    assert found.tokens == len(scores.positions)
    assert found.nats == pytest.approx(np.mean(scores.nats), rel=1e-6)


def test_each_document_is_scored_as_if_alone():
    """However many go together, with whichever others, in whatever order."""
    together, alone = Scores(), Scores()
    adapt(record=together)
    adapt(settings=small_settings(ttt_method="lora", ttt_lora_documents=1), record=alone)
    np.testing.assert_allclose(together.by_position(), alone.by_position(), atol=1e-5)
    begins = np.flatnonzero(TOKENS == BOS)
    last = Scores()
    adapt(TOKENS[begins[-2] :], record=last)
    np.testing.assert_allclose(last.by_position(), together.by_position()[begins[-2] :], atol=1e-5)


def test_a_chunk_is_learned_once_it_is_scored_and_a_batch_s_last_one_never():
    scores, watched = Scores(), []

    class Late(Watched):
        def update(self, tokens: torch.Tensor, positions: torch.Tensor, lr_scale: float) -> None:
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            taught = positions[positions >= 0]
            assert set(taught.tolist()) <= set(scores.positions)
            assert torch.equal(
                tokens[:, -8:][positions >= 0], torch.from_numpy(TOKENS)[taught].int()
            )
            super().update(tokens, positions, lr_scale)

    def watch(learner: Learner) -> Watched:
        watched.append(Late(learner))
        return watched[0]

    adapt(record=scores, watch=watch)
    batches = alike(find_documents(TokenArray(TOKENS), 399, BOS), 8, 4)
    assert len(watched[0].calls) == sum(batch[0].chunks(8) - 1 for batch in batches) > 10


def test_learning_lowers_the_score_of_documents_that_repeat_themselves():
    pattern = np.random.default_rng(2).integers(2, 40, 30)
    document = np.concatenate(([BOS], np.resize(pattern, 200)))
    tokens = np.tile(document, 3).astype(np.uint16)
    settings = {"ttt_method": "lora", "ttt_lora_epochs": 4, "ttt_lora_lr": 0.02}
    learned = adapt(tokens, small_settings(**settings))
    still = adapt(tokens, small_settings(**settings | {"ttt_lora_lr": 0.0}))
    assert learned.bpb < 0.9 * still.bpb
