"""Test-time training on the kernels, its step a graph, against the reference's."""

import pytest
import torch

from evaluation.score import Score, Scoring
from evaluation.ttt.methods import score_adapting
from runtime.ranks import World
from tests.evaluation.network import (
    fresh,
    network_in_bf16,
    settings_of_frontier_parts,
    small_settings,
    split_of,
    tokens_of_documents,
)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["sgd", "lora", "both"])
def test_the_kernels_learn_as_the_reference(method: str):
    """A network whose heads are of 16, the least that the kernels take; many replays of a graph."""
    settings = small_settings(
        ttt_method=method,
        ttt_lora_matrices=["q", "k", "v", "o", "attention", "mlp", "head"],
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


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["lora", "both"])
def test_a_network_of_preset_frontier_s_parts_learns_in_bf16(method: str):
    """Rows of every size; with a rate of 0, documents read in chunks score as windows do."""
    settings = settings_of_frontier_parts(ttt_method=method)
    world, tokens = World.single(torch.device("cuda", 0)), tokens_of_documents(20_000, 3, 700)

    def score(**changes: object) -> Score:
        chosen = small_settings(**settings.model_dump() | changes)
        model = network_in_bf16(chosen, world.device)
        return score_adapting(model, "kernels", split_of(tokens), chosen, Scoring(world))

    still = score(ttt_lr=0.0, ttt_lora_lr=0.0)
    plain = score(ttt_method="lora", ttt_lora_lr=0.0, ttt_lora_chunk=256, ttt_lora_chunk_most=256)
    assert still.nats == pytest.approx(plain.nats, abs=2e-3)
    found = score(ttt_lr=0.05, ttt_lora_lr=0.003)
    assert found.tokens == len(tokens) - 1
    assert found.nats < still.nats - 0.05
