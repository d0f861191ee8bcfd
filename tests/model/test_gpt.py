"""GPT against an independent fp64 network, part by part, and what it promises besides."""

import math

import pytest
import torch
from torch import Tensor

from kernels import operations
from model.config import Architecture
from model.gpt import GPT
from tests.kernels.tools.compare import FP32, FP64, assert_agree, leaves, relative_error
from tests.kernels.tools.oracle import int6, mlp_in_fp8
from tests.model import oracle
from tests.model.small import (
    MAX_LENGTH,
    PARTS,
    VOCAB,
    architecture,
    fresh,
    perturbed,
    perturbed_fp64,
    random_tokens,
)

all_parts = pytest.mark.parametrize("part", PARTS)
BANKS = ("qo_bank", "kv_bank", "up_bank", "down_bank")


def named(model: GPT) -> dict[str, Tensor]:
    return dict(model.named_parameters())


def lever(value: float) -> Tensor:
    return torch.tensor(value)


def assert_hidden_agrees(config: Architecture, tokens: Tensor) -> None:
    model = perturbed_fp64(config)
    copies = leaves(named(model))
    assert_agree(
        (model.hidden(tokens),),
        named(model),
        (oracle.hidden(config, copies, tokens),),
        copies,
        FP64,
    )


@all_parts
def test_hidden_state_and_every_gradient(part: str) -> None:
    assert_hidden_agrees(architecture(part), random_tokens(13)[0])


@pytest.mark.parametrize("length", [1, 2, 7, 33], ids=lambda length: f"T {length}")
def test_hidden_state_and_every_gradient_at_odd_lengths(length: int) -> None:
    assert_hidden_agrees(architecture("all options"), random_tokens(length)[0])


@pytest.mark.parametrize("min_step", [0.0, 0.02], ids=["", "min_step"])
def test_int6_faked_banks_and_their_straight_through_gradients(min_step: float) -> None:
    config, (tokens, _) = architecture(), random_tokens(13)
    model = perturbed_fp64(config)
    model.fake_step_floor = min_step
    copies = leaves(named(model))
    faked = {name: int6(copy, min_step) if name in BANKS else copy for name, copy in copies.items()}
    on = (model.hidden(tokens, qat=lever(1.0)),)
    assert_agree(on, named(model), (oracle.hidden(config, faked, tokens),), copies, FP64)
    assert torch.equal(model.hidden(tokens, qat=lever(0.0)), model.hidden(tokens))


def test_mlps_in_fp8_and_their_straight_through_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of weights are rounded with their branch's scale in them."""
    config, (tokens, _) = architecture("loop and lanes"), random_tokens(13)
    model = perturbed_fp64(config)
    copies = leaves(named(model))
    scaled = copies["mlp_scale"][..., None] * copies["down_bank"]
    given = copies | {"down_bank": scaled, "mlp_scale": torch.ones_like(copies["mlp_scale"])}
    exact = model.hidden(tokens)
    got = (model.hidden(tokens, precision="fp8"),)
    monkeypatch.setattr("tests.kernels.tools.oracle.mlp", mlp_in_fp8)
    assert_agree(got, named(model), (oracle.hidden(config, given, tokens),), copies, FP32)
    assert relative_error(got[0], exact) > 1e-3


@pytest.mark.parametrize(
    "part", ["everything", "untied head", "no MTP head", "1 MTP head", "1 layer", "all options"]
)
@pytest.mark.parametrize("mtp_weight", [None, 0.3], ids=["no MTP weight", "MTP weight"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "target weight"])
def test_loss_nats_and_every_gradient(part: str, mtp_weight: float | None, weighted: bool) -> None:
    """FP32 is the tolerance: the loss is fp32 inside, and its gradient passes through that."""
    config, (tokens, targets) = architecture(part), random_tokens(13)
    model = perturbed_fp64(config)
    copies = leaves(named(model))
    weight = torch.rand(VOCAB, generator=torch.Generator().manual_seed(4)) if weighted else None
    got = model(
        tokens,
        targets,
        mtp_weight=None if mtp_weight is None else lever(mtp_weight),
        target_weight=weight,
    )
    expected = oracle.loss(
        config,
        copies,
        tokens,
        targets,
        mtp_weight,
        None if weight is None else weight.double(),
    )
    assert_agree(got, named(model), expected, copies, FP32)


@pytest.mark.parametrize("part", ["everything", "all options"])
def test_fp32_network_as_it_trains_on_a_cpu(part: str) -> None:
    config, (tokens, targets) = architecture(part), random_tokens(33)
    model = perturbed(config)
    copies = leaves(named(model))
    got = model(tokens, targets, mtp_weight=lever(0.1))
    assert_agree(got, named(model), oracle.loss(config, copies, tokens, targets, 0.1), copies, FP32)


@all_parts
def test_bf16_activations_stay_bf16_and_losses_and_gradients_are_fp32(part: str) -> None:
    tokens, targets = random_tokens(13)
    model = perturbed(architecture(part), dtype=torch.bfloat16)
    loss, nats = model(tokens, targets, mtp_weight=lever(0.1), qat=lever(1.0))
    loss.backward()
    exact = perturbed(architecture(part))(tokens, targets, mtp_weight=lever(0.1), qat=lever(1.0))
    assert model.hidden(tokens).dtype == torch.bfloat16
    assert (loss.dtype, nats.dtype) == (torch.float32, torch.float32)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(grad is not None and grad.dtype == torch.float32 for grad in gradients)
    # Some hundred roundings to 2^-9 lie on the way; their errors grow with the square root.
    assert relative_error(nats, exact[1]) < 10 * 2**-9


def tables(config: Architecture) -> set[str]:
    """Parameters whose rows learn only when a token names them."""
    return {"bigram_table", "value_table"} | (set() if config.tie_embeddings else {"tok_emb"})


@all_parts
def test_every_slice_of_every_parameter_gets_a_gradient(part: str) -> None:
    """Slices along the first dimension are layers, heads or what else is stacked."""
    config, (tokens, targets) = architecture(part), random_tokens(33)
    model = perturbed(config)
    model(tokens, targets, mtp_weight=lever(0.1))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        moved = parameter.grad.reshape(len(parameter) if parameter.ndim else 1, -1).any(1)
        assert bool(moved.any() if name in tables(config) else moved.all()), name


@all_parts
def test_no_parameter_is_dead_from_the_start(part: str) -> None:
    """A zero times a zero never learns: a few steps from the initial weights, all must."""
    tokens, targets = random_tokens(13)
    model = fresh(architecture(part))
    gradients: dict[str, Tensor] = {}
    for _ in range(5):
        loss, _ = model(tokens, targets, mtp_weight=lever(0.1))
        found = torch.autograd.grad(loss, list(model.parameters()))
        gradients = dict(zip(named(model), found, strict=True))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter -= 0.5 * gradients[name]
    dead = [name for name, grad in gradients.items() if not grad.any()]
    assert dead == []


def test_without_mtp_weight_the_mtp_heads_cost_and_learn_nothing() -> None:
    tokens, targets = random_tokens(13)
    model = perturbed(architecture())
    loss, nats = model(tokens, targets)
    loss.backward()
    assert model.mtp_heads.grad is None
    assert loss.item() == pytest.approx(nats.mean().item(), rel=1e-6)


@all_parts
def test_no_token_moves_an_earlier_hidden_state(part: str) -> None:
    tokens = random_tokens(9)[0]
    model = perturbed_fp64(architecture(part))
    hidden = model.hidden(tokens)
    for i in range(9):
        other = tokens.clone()
        other[:, i] = (tokens[:, i] + 11) % VOCAB
        moved = model.hidden(other)
        assert relative_error(moved[:, :i], hidden[:, :i]) < FP64
        assert relative_error(moved[:, i], hidden[:, i]) > 1e-3


def test_bos_mask_closes_smear_gate_alone() -> None:
    """A document's first state forgets the document before it only where attention has no say:
    attention is causal over the whole window and crosses document starts, mask or not."""
    tokens, other = (torch.tensor([[1, 5, last, 1, 7, 8]], dtype=torch.int32) for last in (6, 9))
    config = architecture(bigram_vocab_size=0)
    model = perturbed_fp64(config)
    assert relative_error(model.hidden(other)[:, 3:], model.hidden(tokens)[:, 3:]) > 1e-3
    with torch.no_grad():
        model.qo_bank[config.num_layers :] = 0.0  # no layer's attention writes
    assert torch.equal(model.hidden(other)[:, 3:], model.hidden(tokens)[:, 3:])


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    tokens = random_tokens(13)[0]
    model = perturbed_fp64(architecture("all options"))
    assert relative_error(model.hidden(tokens[1:]), model.hidden(tokens)[1:]) < FP64


@pytest.mark.parametrize("part", ["everything", "untied head"])
@pytest.mark.parametrize("count", [1, 5, 13])
def test_score_of_the_last_positions_is_the_tail_of_the_full_score(part: str, count: int) -> None:
    tokens, targets = random_tokens(13)
    model = perturbed(architecture(part))
    full = model(tokens, targets)[1]
    tail = model.score(tokens, targets[:, -count:])
    assert tail.shape == (2, count)
    assert relative_error(tail, full[:, -count:]) < FP32
    assert relative_error(model.score(tokens, targets), full) < FP32


def test_score_ignores_the_longest_length_it_was_made_for() -> None:
    tokens, targets = random_tokens(7)
    config = architecture()
    short = GPT(config, operations("reference"), dtype=torch.float32, max_seq_len=7, seed=1)
    assert MAX_LENGTH > 7
    assert torch.equal(short.score(tokens, targets), fresh(config).score(tokens, targets))


def test_qat_never_reaches_a_score() -> None:
    tokens, targets = random_tokens(13)
    model = perturbed(architecture())
    plain, faked = model(tokens, targets)[1], model(tokens, targets, qat=lever(1.0))[1]
    assert torch.equal(model.score(tokens, targets), plain)
    assert relative_error(faked, plain) > 1e-3


@pytest.mark.parametrize("part", ["everything", "untied head", "no MTP head", "1 MTP head"])
@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_fresh_loss_is_that_of_a_uniform_guess_for_every_head(part: str, weight: float) -> None:
    """Exact where heads start at zero; a tied head's logits of std 0.005 sqrt(C) = 0.03 move the
    mean of 132 tokens by some 0.003."""
    config, (tokens, targets) = architecture(part), random_tokens(33, batch=4)
    loss, _ = fresh(config)(tokens, targets, mtp_weight=lever(weight))
    uniform = math.log(VOCAB) * (1 + (weight if config.mtp_num_heads else 0.0))
    assert loss.item() == pytest.approx(uniform, abs=1e-5 if part == "untied head" else 0.015)
