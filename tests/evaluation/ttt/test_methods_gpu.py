"""Test-time training on the kernels, its step a graph, against the reference's."""

import pytest
import torch

from evaluation.score import Score, Scoring
from evaluation.ttt.methods import score_adapting
from kernels import operations
from model.gpt import GPT
from runtime.ranks import World
from tests.evaluation.network import fresh, small_settings, split_of, tokens_of_documents


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
    settings = small_settings(
        ttt_method=method,
        ttt_lora_alpha=6.0,
        ttt_lora_chunk=32,
        ttt_lora_chunk_most=128,
        ttt_lora_documents=48,
        ttt_chunk_tokens=16 * 256,
        ttt_batch_seqs=4,
        train_seq_len=256,
        eval_seq_len=256,
        eval_stride=256,
        document_mask=True,
        window=256,
        model_dim=256,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        rope_dims=32,
        gate_window=12,
        smear_window=12,
        skip_gates=True,
        parallel_from=3,
        xsa_last_n=4,
        ve_enabled=False,
        bigram_vocab_size=0,
        loop_layers=[1],
        num_loops=1,
    )
    world, tokens = World.single(torch.device("cuda", 0)), tokens_of_documents(20_000, 3, 700)

    def score(**changes: object) -> Score:
        chosen = small_settings(**settings.model_dump() | changes)
        model = GPT(
            chosen.architecture(),
            operations("kernels"),
            dtype=torch.bfloat16,
            max_seq_len=256,
            seed=1,
        ).to(world.device)
        generator = torch.Generator(world.device).manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():  # of which some begin as zeros
                weight += 0.05 * torch.randn(weight.shape, generator=generator, device=world.device)
        return score_adapting(model, "kernels", split_of(tokens), chosen, Scoring(world))

    still = score(ttt_lr=0.0, ttt_lora_lr=0.0)
    plain = score(ttt_method="lora", ttt_lora_lr=0.0, ttt_lora_chunk=256, ttt_lora_chunk_most=256)
    assert still.nats == pytest.approx(plain.nats, abs=2e-3)
    found = score(ttt_lr=0.05, ttt_lora_lr=0.003)
    assert found.tokens == len(tokens) - 1
    assert found.nats < still.nats - 0.05
