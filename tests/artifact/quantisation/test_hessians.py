"""Hessians against the inputs of every product that the plain operations compute."""

import pytest
import torch
import torch.nn.functional as F

from artifact.quantisation.hessians import collect
from model.gpt import GPT
from tests.small import small_model


@pytest.fixture
def model() -> GPT:
    return small_model(0.1, vocab_size=50, mlp_mult=1.5)


@pytest.fixture
def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 50, (2, 16), generator=generator).int() for _ in range(2)]


def products(model: GPT, batches: list[torch.Tensor], monkeypatch) -> dict[tuple, list]:
    """``X^T X`` of all calls of F.linear, by the weight's shape, in order, summed over batches."""
    found: dict[tuple, list[torch.Tensor]] = {}
    plain = F.linear
    for tokens in batches:
        calls: dict[tuple, list[torch.Tensor]] = {}

        def linear(x, weight, calls=calls):
            flat = x.detach().flatten(0, -2)
            calls.setdefault(tuple(weight.shape), []).append(flat.T @ flat)
            return plain(x, weight)

        with monkeypatch.context() as patched, torch.no_grad():
            patched.setattr(F, "linear", linear)
            model.hidden(tokens)
        for shape, sums in calls.items():
            before = found.get(shape, [torch.zeros(())] * len(sums))
            found[shape] = [a + b for a, b in zip(before, sums, strict=True)]
    return found


def test_every_bank_gets_the_inputs_of_its_products(model, batches, monkeypatch) -> None:
    expected = products(model, batches, monkeypatch)
    found = collect(model, batches)
    qkv, o, up, down = ((64, 32), (32, 32), (48, 32), (32, 48))
    into_qkv, into_o = torch.stack(expected[qkv]), torch.stack(expected[o])
    torch.testing.assert_close(
        found["qo_bank"], torch.cat((into_qkv, into_o)), rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(
        found["kv_bank"], torch.cat((into_qkv, into_qkv)), rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(found["up_bank"], torch.stack(expected[up]), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        found["down_bank"], torch.stack(expected[down]), rtol=1e-4, atol=1e-3
    )
    with torch.no_grad():
        hidden = torch.cat([model.hidden(tokens) for tokens in batches]).flatten(0, 1)
    torch.testing.assert_close(found["tok_emb"], (hidden.T @ hidden)[None], rtol=1e-4, atol=1e-3)
    assert len(found) == 5


def test_the_model_is_as_before(model, batches) -> None:
    ops, weights = model.ops, {name: p.clone() for name, p in model.named_parameters()}
    collect(model, batches)
    assert model.ops is ops
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())

    def broken():
        yield torch.full((1, 99), 1)  # longer than the model's rotary table

    with pytest.raises(RuntimeError):
        collect(model, broken())
    assert model.ops is ops


def test_no_batch_is_refused(model) -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        collect(model, [])
