"""Adapters against weights with the same added to them, and what they leave behind."""

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.ttt.lora import Adapters, document_adapters
from model.gpt import GPT
from model.hooks import Site
from tests.evaluation.network import (
    CPU,
    LENGTH,
    fresh,
    small_settings,
    tokens_of_documents,
    trained,
)

ALL = ["q", "k", "v", "o", "attention", "mlp", "head"]


def batch(documents: int = 4) -> tuple[Tensor, Tensor]:
    text = tokens_of_documents(documents * (LENGTH + 1), seed=8).astype(np.int32)
    tokens = torch.from_numpy(text).view(documents, LENGTH + 1)
    return tokens, torch.arange(documents * 8).view(documents, 8)


def nats(scorer: GPT | Adapters, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return scorer.score(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).clone()


@torch.no_grad()
def merge(model: GPT, adapters: Adapters, document: int) -> None:
    """Add a document's adapters to the banks; the head's are left to ``nats_with_head``."""
    layers = model.config.num_layers
    places = {"q": (model.qo_bank, 0), "k": (model.kv_bank, 0)}
    places |= {"v": (model.kv_bank, layers), "o": (model.qo_bank, layers)}
    for name, (bank, first) in places.items():
        for layer in range(layers):
            change = adapters.up[name][layer, document] @ adapters.down[name][layer, document]
            change = change * adapters.settings.ttt_lora_alpha / adapters.settings.ttt_lora_rank
            if name == "o":  # the bank's rows are scaled on their way to the product
                change = change / model.attn_scale[layer][:, None]
            bank[first + layer] += change


@pytest.mark.parametrize("document", [0, 3])
def test_a_row_computes_with_its_own_document_s_weights(document: int):
    settings = small_settings(ttt_lora_matrices=ALL[:4], ttt_lora_alpha=1.5)
    model, (tokens, positions) = trained(settings), batch()
    with document_adapters(model, settings, CPU) as adapters:
        for _ in range(3):
            adapters.update(tokens, positions, 1.0)
        found = nats(adapters, tokens)[document]
        merged = trained(settings)
        merge(merged, adapters, document)
    expected = nats(merged, tokens)[document]
    assert (found - nats(model, tokens)[document]).abs().max() > 0.03
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_each_visit_of_a_layer_has_adapters_of_its_own():
    settings = small_settings(ttt_lora_matrices=["q"], loop_layers=[1], num_loops=1)
    model, (tokens, _) = fresh(settings), batch()
    generator, seen = torch.Generator().manual_seed(1), {}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)

    class Added:
        matrices, replaces = ("q",), True

        def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
            seen[site.visit] = site.layer
            return y + x @ adapters.down["q"][site.visit].mT @ adapters.up["q"][site.visit].mT

    with document_adapters(model, settings, CPU) as adapters:
        assert len(adapters.down["q"]) == len(adapters.up["q"]) == 4
        with torch.no_grad():
            for matrices in adapters.tensors():
                matrices.copy_(torch.randn(matrices.shape, generator=generator))
            expected = model.score(tokens[:, :-1], tokens[:, 1:], Added())
        torch.testing.assert_close(nats(adapters, tokens), expected)
        assert (nats(model, tokens) - expected).abs().max() > 0.1
    assert seen == {0: 0, 1: 1, 2: 1, 3: 2}


def test_the_head_s_adapter_changes_what_the_head_reads():
    settings = small_settings(ttt_lora_matrices=["head"])
    model, (tokens, positions) = trained(settings), batch()
    with document_adapters(model, settings, CPU) as adapters:
        adapters.update(tokens, positions, 1.0)
        found = nats(adapters, tokens)
        change = adapters.up["head"][0] @ adapters.down["head"][0]
    with torch.no_grad():
        hidden = model.hidden(tokens[:, :-1].contiguous())
        logits = (hidden + hidden @ change.mT) @ model.tok_emb.T
        capped = 30.0 * torch.tanh(logits / 30.0)
        expected = -capped.log_softmax(-1).gather(2, tokens[:, 1:, None].long())[..., 0]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_choices_of_targets_are_scored_as_each_alone():
    settings = small_settings(ttt_lora_matrices=ALL)
    tokens, positions = batch()
    choices = torch.stack([tokens[:, -5:], tokens[:, -6:-1], tokens[:, -7:-2]])
    with document_adapters(trained(settings), settings, CPU) as adapters:
        adapters.update(tokens, positions, 1.0)
        read = tokens[:, :-1].contiguous()
        alone = torch.stack([adapters.score(read, each.contiguous()) for each in choices])
        torch.testing.assert_close(adapters.score(read, choices), alone)
    assert (alone[0] - alone[1]).abs().max() > 0.1


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_reset_forgets_bit_for_bit(optimizer: str):
    """What is learned after it, the optimizer's memory included, is what the first one learned."""
    settings = small_settings(ttt_lora_matrices=ALL, ttt_lora_optimizer=optimizer)
    model, (tokens, positions) = trained(settings), batch()
    unadapted = nats(model, tokens)
    with document_adapters(model, settings, CPU) as adapters:
        begin = [tensor.clone() for tensor in adapters.tensors()]
        assert torch.equal(nats(adapters, tokens), unadapted)
        learned = []
        for _ in range(2):
            adapters.reset(4)
            assert all(map(torch.equal, adapters.tensors(), begin))
            assert torch.equal(nats(adapters, tokens), unadapted)
            for _ in range(2):
                adapters.update(tokens, positions, 1.0)
            learned.append([tensor.clone() for tensor in adapters.tensors()])
    assert all(map(torch.equal, *learned))
    assert not any(map(torch.equal, learned[0], begin))


def test_documents_do_not_teach_each_other():
    """With the other rows changed, a row's adapters end the same; they learn the last targets."""
    settings = small_settings(ttt_lora_matrices=ALL, ttt_lora_epochs=3)
    model, (tokens, positions) = trained(settings), batch()
    other, earlier = tokens.clone(), tokens.clone()
    other[1:] = tokens[1:].flip(1)
    earlier[0, :4] = tokens[0, :4].flip(0)
    learned = []
    for text in (tokens, other, earlier):
        with document_adapters(model, settings, CPU) as adapters:
            adapters.update(text, positions, 1.0)
            learned.append([tensor.clone() for tensor in adapters.tensors()])
    for first, second, third in zip(*learned, strict=True):
        assert torch.equal(first[:, 0], second[:, 0])
        assert not torch.equal(first[:, 1:], second[:, 1:])
        assert not torch.equal(first[:, 0], third[:, 0])


def test_the_first_step_is_adam_s_on_the_mean_of_the_last_targets():
    """Adam's first step is the rate times the gradient's sign."""
    settings = small_settings(ttt_lora_matrices=["head"], ttt_lora_lr=0.02)
    model, (tokens, positions) = trained(settings), batch()
    with document_adapters(model, settings, CPU) as adapters:
        before = adapters.down["head"][0].detach().clone()
        adapters.update(tokens, positions, 0.5)
        up = adapters.up["head"][0].detach()
    hidden = model.hidden(tokens[:, :-1].contiguous())[:, -8:].detach().requires_grad_()
    model.ops.loss(hidden, model.tok_emb, tokens[:, -8:].contiguous(), softcap=30.0)[0].backward()
    assert hidden.grad is not None
    gradient = hidden.grad.mT @ (hidden.detach() @ before.mT)
    certain = gradient.abs() > 1e-4
    assert certain.float().mean() > 0.3
    expected = -0.01 * gradient.sign()
    torch.testing.assert_close(up[certain], expected[certain], atol=1e-5, rtol=0)


def test_the_model_is_put_back():
    settings = small_settings()
    model, (tokens, positions) = trained(settings), batch()
    own, before = model.ops, {name: p.detach().clone() for name, p in model.named_parameters()}
    model.mtp_heads.requires_grad_(False)
    with document_adapters(model, settings, CPU) as adapters:
        adapters.update(tokens, positions, 1.0)
        assert not any(p.requires_grad for p in model.parameters())
    assert model.ops is own
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None
        assert parameter.requires_grad == (name != "mtp_heads")
