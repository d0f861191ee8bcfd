"""Loops, lanes, documents and windows: training steps, and plans other than the architecture's."""

from typing import Any

import pytest
import torch
from torch import Tensor

from artifact.quantisation.hessians import collect
from kernels.attention.reference import document_bounds
from model.gpt import GPT
from model.plan import plan
from tests.kernels.tools.compare import FP32, FP64, assert_agree, leaves, relative_error
from tests.model import oracle
from tests.model.small import architecture, fresh, perturbed, perturbed_fp64, random_tokens

VISITS: dict[str, dict[str, Any]] = {
    "layers 3 to 5 three times": {"num_layers": 8, "loop_layers": [3, 4, 5], "num_loops": 2},
    "lanes": {"num_layers": 7, "parallel_from": 4},
    "documents": {"document_mask": True},
    "windows": {"window": 4},
    "two windows": {"window": 6, "near_window": 3, "near_layers": [0, 2]},
    "a window of some layers": {"near_window": 3, "near_layers": [1], "document_mask": True},
    "all": {
        "num_layers": 6,
        "loop_layers": [1, 2],
        "num_loops": 1,
        "parallel_from": 5,
        "document_mask": True,
        "window": 5,
    },
    "gates": {
        "num_layers": 7,
        "loop_layers": [2],
        "num_loops": 1,
        "parallel_from": 5,
        "gate_window": 4,
        "smear_window": 4,
        "skip_gates": True,
    },
}
visits = pytest.mark.parametrize("changes", VISITS.values(), ids=VISITS.keys())
STEPS, RATE = 3, 0.3


def named(model: GPT) -> dict[str, Tensor]:
    return dict(model.named_parameters())


def descend(parameters: dict[str, Tensor], loss: Tensor) -> None:
    """One step of plain gradient descent."""
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    with torch.no_grad():
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter -= RATE * gradient


@visits
def test_training_steps_are_those_of_the_oracles_gradients(changes: dict[str, Any]) -> None:
    config = architecture(**changes)
    model = perturbed(config)
    start = {name: p.detach().double().clone() for name, p in named(model).items()}
    copies = leaves(named(model))
    for step in range(STEPS):
        tokens, targets = random_tokens(13, seed=step)
        loss = model(tokens, targets, mtp_weight=torch.tensor(0.1))[0]
        expected = oracle.loss(config, copies, tokens, targets, 0.1)[0]
        assert relative_error(loss, expected) < FP32
        descend(named(model), loss)
        descend(copies, expected)
    for name, parameter in named(model).items():
        moved, expected = parameter.double() - start[name], copies[name] - start[name]
        assert relative_error(moved, expected) < 4 * FP32, name


@pytest.mark.parametrize("loops", [0, 1])
@pytest.mark.parametrize("window", [0, 3])
def test_a_plan_of_fewer_loops_or_another_window(loops: int, window: int) -> None:
    config = architecture(num_layers=6, loop_layers=[2, 3], num_loops=2, window=5)
    model, (tokens, _) = perturbed_fp64(config), random_tokens(13)
    copies = leaves(named(model))
    found = model.hidden(tokens, plan=plan(config, loops, window))
    expected = oracle.hidden(config, copies, tokens, loops, window)
    used = {name: p for name, p in named(model).items() if name != "skip_weight"}
    assert_agree((found,), used, (expected,), {name: copies[name] for name in used}, FP64)


@pytest.mark.parametrize("gates", [False, True], ids=["weights", "gates"])
def test_skips_that_a_plan_does_not_reach_get_no_gradient(gates: bool) -> None:
    config = architecture(loop_layers=[2], num_loops=3, skip_gates=gates)
    model, (tokens, targets) = perturbed(config), random_tokens(9)
    model(tokens, targets, plan=plan(config, loops=0))[0].backward()
    for name in ("skip_weight", "skip_gate")[: 1 + gates]:
        gradient = model.get_parameter(name).grad
        assert gradient is not None and bool(gradient[:2].all()) and not gradient[2:].any()


def test_given_bounds_are_those_made_from_tokens() -> None:
    """And they hold for visits that would see other documents."""
    masked, plain = (perturbed(architecture(document_mask=on, window=6)) for on in (True, False))
    tokens, _ = random_tokens(33)
    bounds, expected = document_bounds(tokens, 1), masked.hidden(tokens)
    assert torch.equal(masked.hidden(tokens, bounds=bounds), expected)
    assert torch.equal(plain.hidden(tokens, bounds=bounds), expected)
    assert torch.equal(plain.hidden(tokens, plan=masked.plan), expected)
    assert torch.equal(masked.hidden(tokens, plan=plain.plan), plain.hidden(tokens))
    assert relative_error(plain.hidden(tokens), expected) > 1e-3


def test_a_document_in_a_window_is_scored_as_alone() -> None:
    """But for the rotary positions, which attention feels only in the differences."""
    model = perturbed_fp64(architecture(document_mask=True, bigram_vocab_size=0))
    tokens, targets = random_tokens(9, batch=1)
    tokens[:, 1:], tokens[:, 4] = tokens[:, 1:].clamp_min(2), 1
    together = model.score(tokens, targets)[:, 4:]
    assert relative_error(together, model.score(tokens[:, 4:], targets[:, 4:])) < FP32


@pytest.mark.parametrize("heads", [0, 1, 2])
def test_fewer_mtp_heads(heads: int) -> None:
    model, (tokens, targets) = perturbed(architecture()), random_tokens(13)
    copies = leaves(named(model))
    first = copies | {"mtp_heads": copies["mtp_heads"][:heads]}
    got = model(tokens, targets, heads=heads, mtp_weight=torch.tensor(0.3))
    expected = oracle.loss(model.config, first, tokens, targets, 0.3 if heads else None)
    assert_agree(got, named(model), expected, copies, FP32)


def test_more_mtp_heads_than_there_are_are_refused() -> None:
    model, (tokens, targets) = fresh(architecture()), random_tokens(5)
    with pytest.raises(ValueError, match=r"3 MTP heads.*mtp_num_heads 2"):
        model(tokens, targets, heads=3, mtp_weight=torch.tensor(0.3))


def test_hessians_add_up_over_the_visits_of_a_layer() -> None:
    """A loop of the whole network: each visit's inputs count."""
    config = architecture(num_layers=3, loop_layers=[0, 1, 2], num_loops=1, ve_layers=[1])
    model, (tokens, _) = perturbed(config), random_tokens(13)
    seen: dict[tuple[str, int], list[Tensor]] = {}

    class Inputs:
        matrices, replaces = ("q", "up"), False

        def __call__(self, site: Any, x: Tensor, y: Tensor) -> Tensor:
            seen.setdefault((site.matrix, site.layer), []).append(x.detach().flatten(0, 1))
            return y

    with torch.no_grad():
        model.hidden(tokens, hook=Inputs())
    found = collect(model, [tokens])
    for matrix, bank in (("q", "qo_bank"), ("up", "up_bank")):
        for layer in range(config.num_layers):
            both = torch.cat(seen[matrix, layer])
            assert len(both) == 2 * tokens.numel()
            torch.testing.assert_close(found[bank][layer], both.T @ both, rtol=1e-4, atol=1e-3)
