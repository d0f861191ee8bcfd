"""Test-time training on the kernels, its step a graph, against the reference's."""

import pytest
import torch

from evaluation.score import Score, Scoring
from evaluation.ttt.methods import score_adapting
from runtime.ranks import World
from tests.evaluation.network import fresh, small_settings, split_of, tokens_of_documents


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["sgd", "lora"])
def test_the_kernels_learn_as_the_reference(method: str):
    """A network whose heads are of 16, the least that the kernels take; many replays of a graph."""
    settings = small_settings(
        ttt_method=method,
        ttt_lora_matrices=["q", "k", "v", "o", "head"],
        num_heads=2,
        num_kv_heads=1,
        num_layers=2,
        ve_layers=[1],
    )
    world, tokens = World.single(torch.device("cuda", 0)), tokens_of_documents(500, seed=3)

    def score(backend: str) -> Score:
        model = fresh(settings, backend).to(world.device)
        return score_adapting(model, backend, split_of(tokens), settings, Scoring(world))

    expected = score("reference")
    found = score("kernels")
    assert found.tokens == expected.tokens
    # TF32 products, where a kernel takes them in fp32, have ten bits.
    assert found.nats == pytest.approx(expected.nats, abs=2e-3)
