"""Documents and their chunks: each target once, in its own document's context."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from evaluation.audit.observing import TokenArray
from evaluation.score import Record, Score, Scoring
from evaluation.ttt.chunk_steps import MOST_SHAPES
from evaluation.ttt.documents import (
    EMPTY,
    HALVINGS,
    Document,
    DocumentPlan,
    alive,
    deal,
    find_documents,
    load_chunk,
)
from evaluation.ttt.learner import Learner, Watch, unwatched
from evaluation.ttt.methods import score_adapting
from evaluation.ttt.phases import phases
from evaluation.ttt.reader import Reader
from settings import Settings
from settings.load import load_settings
from tests.evaluation.network import (
    BOS,
    CPU,
    Scores,
    Watched,
    fresh,
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


def test_a_batch_loses_the_documents_that_ended_some_at_a_time():
    batch = [Document(0, 99), *[Document(0, 40)] * 20]
    assert alive(batch, 39, 32) == [*batch, *[EMPTY] * 11]
    assert alive(batch, 40, 32) == batch[:2]
    assert alive(batch[:2], 0, 64) == [*batch[:2], *[EMPTY] * 2]
    assert alive(batch[:5], 40, 4) == batch[:1]
    assert alive(batch[:5], 40, 12) == batch[:3]
    assert alive(batch[:12], 0, 32) == [*batch[:12], *[EMPTY] * 4]
    assert alive(batch[:3], 0, 4) == [*batch[:3], EMPTY]
    assert alive(batch[:3], 0, 3) == batch[:3]


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("preset", ["frontier", "frontier-sprint"])
def test_graphs_hold_all_shapes_of_a_preset(preset: str, ranks: int):
    """Of 1,500 documents, about 1,100 targets each: a development split."""
    settings = load_settings(["--preset", preset], {})
    plan, draw = DocumentPlan.of(settings), np.random.default_rng(1)
    edges = [0, *draw.lognormal(6.8, 0.65, 1_500).astype(int).cumsum().tolist()]
    documents = [Document(a, b) for a, b in pairwise(edges)]
    reader = Reader(fresh(small_settings()), settings.eval_seq_len, 1, plan.most)
    assert reader.reach == settings.eval_seq_len == 2048
    shapes = set()
    for some in phases(documents, settings.ttt_chunk_tokens).values():
        share = deal(some, ranks)[0]
        for first in range(0, len(share), plan.documents):
            batch = share[first : first + plan.documents]
            for begin in plan.begins(batch[0].targets).tolist():
                reader.position = begin
                rows = len(alive(batch, begin, plan.documents))
                shapes.add((rows, plan.size(begin), reader.kept))
    assert min(shapes)[0] == plan.documents >> HALVINGS
    assert len(shapes) <= MOST_SHAPES


def test_chunks_double_and_tell_nothing_of_a_document_s_length():
    plan = DocumentPlan(4, 16, documents=3)
    assert plan.begins(4).tolist() == [0]
    sizes = np.diff(plan.begins(700)).tolist()
    assert sizes[:16] == [4] * 16 and sizes[16:24] == [8] * 8
    assert set(sizes[24:]) == {16} and sum(sizes) + 16 >= 700
    assert all(
        (plan.begins(length) == plan.begins(700)[: len(plan.begins(length))]).all()
        for length in (1, 4, 5, 64, 65, 128, 400)
    )
    assert plan.start(np.array([1, 4, 5, 8, 64, 65, 72, 73])).tolist() == [
        0,
        0,
        2,
        2,
        58,
        62,
        62,
        70,
    ]


def test_a_chunk_s_tokens_are_its_document_s():
    stream = TokenArray(np.arange(100))
    documents = [Document(10, 37), Document(40, 45), Document(0, 0)]
    tokens, positions, last = load_chunk(stream, documents, 16, 8, CPU.device)
    assert tokens[0].tolist() == list(range(24, 35)) and not tokens[1:].any()
    assert positions[0].tolist() == list(range(27, 35))
    assert (positions <= last).any(1).tolist() == [True, False, False]
    tokens, positions, last = load_chunk(stream, documents, 0, 8, CPU.device)
    assert tokens[1].tolist() == [40, 41, 42, 43, 44, 45, 0, 0, 0] and not tokens[2].any()
    assert positions[positions <= last].tolist() == [*range(11, 19), *range(41, 46)]
    tokens, positions, last = load_chunk(stream, [Document(90, 99)], 8, 8, CPU.device)
    assert tokens[0].tolist() == [96, 97, 98, 99] + 7 * [0]
    assert positions[positions <= last].tolist() == [99]


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
            assert set((positions >= 0).sum(1).tolist()) <= {0, 8}
            assert (TOKENS[taught] != BOS).all()  # which is a document's last target
            assert set(taught.tolist()) <= set(scores.positions)
            assert torch.equal(
                tokens[:, -8:][positions >= 0], torch.from_numpy(TOKENS)[taught].int()
            )
            super().update(tokens, positions, lr_scale)

    def watch(learner: Learner) -> Watched:
        watched.append(Late(learner))
        return watched[0]

    adapt(record=scores, watch=watch)
    lengths = sorted(document.targets for document in find_documents(TokenArray(TOKENS), 399, BOS))
    longest = lengths[::-4]
    assert len(watched[0].calls) == sum((length - 1) // 8 for length in longest) > 10


@pytest.mark.parametrize("chunk", [64, 512])
def test_weights_are_trained_after_each_phase_but_the_last(chunk: int):
    """A chunk of 512 holds the whole split."""
    watched: list[Watched] = []

    def watch(learner: Learner) -> Watched:
        watched.append(Watched(learner))
        return watched[-1]

    settings = small_settings(ttt_method="both", ttt_chunk_tokens=chunk)
    adapt(settings=settings, watch=watch)
    documents = find_documents(TokenArray(TOKENS), 399, BOS)
    later = [some[-1].last for some in phases(documents, chunk).values()][:-1]
    taken = [0, *(last // 32 for last in later)]  # batches of two windows so far
    assert len(watched[0].calls) == sum(b > a for a, b in pairwise(taken))


def test_learning_lowers_the_score_of_documents_that_repeat_themselves():
    pattern = np.random.default_rng(2).integers(2, 40, 30)
    document = np.concatenate(([BOS], np.resize(pattern, 200)))
    tokens = np.tile(document, 3).astype(np.uint16)
    settings = {"ttt_method": "lora", "ttt_lora_epochs": 4, "ttt_lora_lr": 0.02}
    learned = adapt(tokens, small_settings(**settings))
    still = adapt(tokens, small_settings(**settings | {"ttt_lora_lr": 0.0}))
    assert learned.bpb < 0.9 * still.bpb
