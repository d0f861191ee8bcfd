"""Chunks replayed as CUDA graphs against chunks launched, and against whole documents."""

import numpy as np
import pytest
import torch

from evaluation.score import Scoring
from evaluation.ttt import chunk_steps
from evaluation.ttt.documents import Document, find_documents
from evaluation.ttt.learner import Learner, unwatched
from evaluation.ttt.lora import Adapters
from evaluation.ttt.phases import score_phases
from kernels import operations
from model.gpt import GPT
from runtime.graphs import Graphs
from runtime.ranks import World
from settings import Settings
from tests.evaluation.network import (
    BOS,
    AskedAgain,
    small_settings,
    split_of,
    tokens_of_documents,
)

pytestmark = pytest.mark.gpu
TOKENS = tokens_of_documents(6_000, 5, 400)
PARTS = {
    "ttt_method": "lora",
    "ttt_lora_matrices": ["q", "k", "v", "o", "attention", "mlp", "head"],
    "ttt_lora_chunk": 16,
    "ttt_lora_chunk_most": 32,
    "ttt_lora_documents": 8,
    "train_seq_len": 128,
    "eval_seq_len": 128,
    "num_heads": 2,
    "num_kv_heads": 1,
    "num_layers": 3,
    "ve_layers": [1],
    "smear_window": 8,
    "parallel_from": 2,
}


def network(settings: Settings, backend: str, device: torch.device) -> GPT:
    """All weights far from their beginnings."""
    ops = operations(backend)
    length = len(TOKENS)
    model = GPT(settings.architecture(), ops, dtype=torch.float32, max_seq_len=length, seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model.to(device)


def documents() -> list[Document]:
    return find_documents(split_of(TOKENS).stream, len(TOKENS) - 1, BOS)


def by_document(nats: np.ndarray) -> np.ndarray:
    """Mean nats of each document of 20 targets or more."""
    return np.array([nats[d.first : d.last].mean() for d in documents() if d.targets >= 20])


@pytest.mark.parametrize("backend", ["reference", "kernels"])
def test_a_replayed_chunk_is_a_launched_one(backend: str):
    settings = small_settings(**PARTS, ttt_lora_lr=1e-3)
    device, watched = torch.device("cuda", 0), []

    def watch(learner: Learner) -> Learner:
        watched.append(learner)
        return learner

    def score(graphs: Graphs | None) -> np.ndarray:
        model, scoring = network(settings, backend, device), Scoring(World.single(device))
        split = split_of(TOKENS)
        found = score_phases(model, None, split, settings, scoring, watch, graphs)
        return found.of_targets.cpu().numpy()

    replays: list[int] = []
    close = chunk_steps.ChunkSteps.close

    def count(steps: chunk_steps.ChunkSteps) -> None:
        replays.append(len(steps.captured))
        close(steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_steps.ChunkSteps, "close", count)
        launched, replayed = score(None), score(Graphs(device))
    assert all(isinstance(learner, Adapters) for learner in watched)
    assert replays[0] == 0 and 4 <= replays[1] <= chunk_steps.MOST_SHAPES
    assert np.isfinite(replayed).all()
    np.testing.assert_allclose(by_document(replayed), by_document(launched), rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "kernels"])
def test_states_that_an_audit_asks_for_are_what_a_replay_read(backend: str):
    settings = small_settings(**PARTS, ttt_lora_lr=1e-3)
    device, split = torch.device("cuda", 0), split_of(TOKENS)

    def score(record: AskedAgain | None) -> np.ndarray:
        model, scoring = (
            network(settings, backend, device),
            Scoring(World.single(device), None, record),
        )
        watch = record.watch if record else unwatched
        found = score_phases(model, None, split, settings, scoring, watch, Graphs(device))
        return found.of_targets.cpu().numpy()

    asked = AskedAgain(TOKENS, device)
    found, unasked = by_document(score(asked)), by_document(score(None))
    np.testing.assert_allclose(found, unasked, rtol=0, atol=1e-5)
    assert max(asked.off) <= 1e-4


def test_without_a_rate_replayed_documents_score_as_whole_ones():
    settings = small_settings(**PARTS | {"eval_seq_len": 512}, ttt_lora_lr=0.0)
    device, split = torch.device("cuda", 0), split_of(TOKENS)
    model, scoring = network(settings, "reference", device), Scoring(World.single(device))
    found = score_phases(model, None, split, settings, scoring, unwatched, Graphs(device))
    whole = np.zeros(len(TOKENS) - 1)
    for d in documents():
        text = torch.from_numpy(TOKENS[d.first : d.last + 1].astype(np.int32))[None].to(device)
        with torch.no_grad():
            nats = model.score(text[:, :-1].contiguous(), text[:, 1:].contiguous())
        whole[d.first : d.last] = nats[0].cpu()
    found_nats = found.of_targets.cpu().numpy()
    np.testing.assert_allclose(by_document(found_nats), by_document(whole), rtol=0, atol=1e-4)
