"""The fused optimizer is the plain one with clip and averages: several steps of a whole network."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.harness import contest as harness
from bench.harness import optimizers
from kernels import operations
from kernels.common import streams
from kernels.optimizer.reference import lean_
from kernels.optimizer.statistics import FIELDS
from kernels.quant.reference import grid_change
from model.gpt import GPT
from model.parameters import exported, parameters
from settings import Settings
from tests.kernels.tools.levers import NEUTRAL, make_levers
from tests.kernels.tools.twins import DEVICE
from tests.training.small import small_settings
from training.averaging import ExponentialAverage
from training.fused_optimizer import FusedOptimizer
from training.optimizer import Optimizer, clip_

RULES = {"muon_beta2": 0.9, "cautious_decay": True}
EVERYTHING = RULES | {
    "gated_attention": True,
    "value_residual": True,
    "tie_embeddings": False,
    "mtp_num_heads": 2,
    "muon_coefficients": "polar_express",
    "muon_row_norm": True,
    "embed_wd": 0.3,
    "down_lr_factor": 2.0,
    "lean": 0.6,
}
SMALL = {"num_layers": 2, "ve_layers": [1], "ema_decay": 0.9, "quant_min_step": 0.01}
STEPS = 3
NEAR = 1e-4  # relative: fp32 in another order through five Newton-Schulz steps


def make_model(settings: Settings) -> GPT:
    ops = operations("reference")
    model = GPT(settings.architecture(), ops, dtype=torch.float32, max_seq_len=16, seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            draw = torch.Generator().manual_seed(i)
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    return model.to(DEVICE)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def give_gradients(model: nn.Module, step: int, size: float = 1.0) -> None:
    for i, parameter in enumerate(model.parameters()):
        draw = torch.Generator().manual_seed(1000 * step + i)
        parameter.grad = (size * torch.randn(parameter.shape, generator=draw)).to(DEVICE)


class Plain:
    """Clip, optimizer and averages as the trainer puts them together."""

    def __init__(self, settings: Settings, levers: Mapping[str, float]) -> None:
        self.model, self.levers = make_model(settings), NEUTRAL | dict(levers)
        self.optimizer = Optimizer(self.model, settings, torch.float32)
        self.averaging = ExponentialAverage(exported(self.model), settings.ema_decay)
        self.norm, self.lean = 0.0, 0.1 if settings.lean else 0.0

    def step(self) -> None:
        clip = torch.tensor(self.levers["clip"], device=DEVICE)
        self.norm = float(clip_(gradients(self.model), clip))
        self.optimizer.step(self.levers["lr_scale"], self.levers["momentum"])
        self.averaging.move()
        lean_(dict(self.model.named_parameters()), self.averaging.exponential, self.lean)


class Fused:
    """The same in the fused optimizer."""

    def __init__(self, settings: Settings, levers: Mapping[str, float]) -> None:
        self.model = make_model(settings)
        self.averaging = ExponentialAverage(exported(self.model), settings.ema_decay)
        lean = {"lean": 0.1} if settings.lean else {}
        self.levers = make_levers(averaging_decay=settings.ema_decay, **levers, **lean)._asdict()
        self.optimizer = FusedOptimizer(
            self.model, settings, torch.float32, self.averaging.exponential, self.levers
        )

    def step(self) -> None:
        self.optimizer.step()


def state(run: Plain | Fused) -> dict[str, Tensor]:
    weights = {name: p.detach() for name, p in run.model.named_parameters()}
    live = weights | run.optimizer.tensors() | run.averaging.tensors()
    return {name: tensor.clone() for name, tensor in live.items()}


def assert_near(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        error = (got[name].double().cpu() - tensor.double().cpu()).norm()
        assert float(error) <= NEAR * max(float(tensor.double().norm()), 1e-3), name


def one_step(settings: Settings, **levers: float) -> dict[str, Tensor]:
    """State after two steps, in which also momentum has an effect."""
    run = Fused(settings, levers)
    for step in range(2):
        give_gradients(run.model, step)
        run.step()
    return state(run)


@pytest.mark.parametrize("clip", [0.3, 1e6], ids=["clipped", "not clipped"])
@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["default", "all options"])
def test_steps_are_the_plain_optimizers(changes: dict[str, Any], clip: float):
    settings = small_settings(**SMALL, **changes)
    levers = {"lr_scale": 0.7, "momentum": 0.95, "clip": clip}
    plain, fused = Plain(settings, levers), Fused(settings, levers)
    for step in range(STEPS):
        for run in (plain, fused):
            give_gradients(run.model, step)
            run.step()
        assert float(fused.optimizer.norm) == pytest.approx(plain.norm, rel=1e-5)
    assert_near(state(fused), state(plain))
    assert int(fused.optimizer.tensors()["adamw.steps"]) == STEPS
    assert [id(p) for p in fused.optimizer.parameters] == [id(p) for p in fused.model.parameters()]


@cache
def neutral_steps() -> dict[str, Tensor]:
    return one_step(small_settings(**SMALL), clip=1e6)


@pytest.mark.parametrize("name", NEUTRAL)
def test_each_lever_reaches_what_it_steers(name: str):
    settings = small_settings(**SMALL)
    levers = {"clip": 1e6} | {name: {"clip": 0.1, "skip_norm": 1e-3}.get(name, 0.5)}
    settings = settings.model_copy(update={"ema_decay": levers.pop("averaging_decay", 0.9)})
    before, after = neutral_steps(), one_step(settings, **levers)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    reached = {
        "lr_scale": {"tok_emb", "up_bank", "average.mix"},
        "momentum": {"muon.momentum.up_bank", "up_bank"},
        "decay_factor": {"tok_emb", "up_bank"},
        "clip": {"adamw.first.mix", "muon.momentum.up_bank"},
        "skip_norm": {"adamw.steps", "tok_emb", "up_bank", "average.mix"},
        "averaging_decay": {"average.tok_emb", "average.up_bank"},
    }[name]
    spared = {
        "lr_scale": {"muon.momentum.up_bank", "adamw.first.mix"},
        "momentum": {"tok_emb", "adamw.first.mix"},
        "decay_factor": {"muon.momentum.up_bank", "adamw.first.mix"},
        "clip": {"adamw.steps"},
        "skip_norm": set(),
        "averaging_decay": {"tok_emb", "up_bank", "adamw.first.mix"},
    }[name]
    assert reached <= moved
    assert not spared & moved


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_but_the_count(wrong: float):
    run = Fused(small_settings(**SMALL), {})
    give_gradients(run.model, 0)
    run.step()
    before, rows = state(run), run.optimizer.statistics.clone()
    give_gradients(run.model, 1)
    run.model.kv_bank.grad = torch.full_like(run.model.kv_bank, 1.0)
    run.model.kv_bank.grad[1, 2, 3] = wrong
    run.step()
    for name, tensor in state(run).items():
        assert torch.equal(tensor, before[name]), name
    assert int(run.optimizer.skipped) == 1
    after = dict(zip(run.optimizer.groups, run.optimizer.statistics, strict=True))
    assert [float(row[FIELDS.index("nonfinite")]) for row in after.values()] == [0, 1, 0, 0, 0]
    assert not run.optimizer.statistics[:, FIELDS.index("update")].any()
    assert torch.equal(run.optimizer.statistics[:, 4:], rows[:, 4:])


def test_a_parameter_without_gradient_stays():
    run = Fused(small_settings(**SMALL), {})
    before = state(run)
    give_gradients(run.model, 0)
    run.model.up_bank.grad = run.model.tok_emb.grad = None
    run.step()
    for name, tensor in state(run).items():
        stays = name.endswith(("up_bank", "tok_emb"))
        assert torch.equal(tensor, before[name]) == stays, name


def test_replays_leave_out_parameters_without_a_gradient():
    """A replay reads the addresses that lie on the device, 0 for no gradient."""
    run = Fused(small_settings(**SMALL), {})
    give_gradients(run.model, 0)
    run.step()
    table, embedding = run.optimizer._gradient_norm.gradients.table, run.model.tok_emb
    every, gradient = table.tolist(), embedding.grad
    assert gradient is not None
    embedding.grad = None
    run.optimizer.find_gradients()
    assert set(every) - set(table.tolist()) == {gradient.data_ptr()}
    embedding.grad = gradient
    run.optimizer.find_gradients()
    assert table.tolist() == every


def test_no_averages_are_no_matter():
    settings = small_settings(**SMALL)
    run = Fused(settings, {})
    bare = make_model(settings)
    levers = make_levers(averaging_decay=0.9)._asdict()
    optimizer = FusedOptimizer(bare, settings, torch.float32, {}, levers)
    for model, step in ((run.model, run.step), (bare, optimizer.step)):
        give_gradients(model, 0)
        step()
    for one, other in zip(run.model.parameters(), bare.parameters(), strict=True):
        assert torch.equal(one, other)


def test_either_optimizer_goes_on_from_the_others_checkpoint():
    settings = small_settings(**SMALL, **RULES)
    plain, fused = Plain(settings, {}), Fused(settings, {})
    give_gradients(plain.model, 0)
    plain.step()
    taken = state(plain)
    with torch.no_grad():
        for name, parameter in fused.model.named_parameters():
            parameter.copy_(taken[name])
    for name, tensor in fused.optimizer.tensors().items():
        tensor.copy_(taken[name])
    fused.averaging.load(taken)
    for run in (plain, fused):
        give_gradients(run.model, 1)
        run.step()
    assert_near(state(fused), state(plain))
    for name, tensor in plain.optimizer.tensors().items():
        tensor.copy_(state(fused)[name])
    assert plain.optimizer.adamw.steps == 2


def test_statistics_are_of_each_bank_and_of_the_rest():
    settings = small_settings(**SMALL)
    run = Fused(settings, {"clip": 0.3})
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    give_gradients(run.model, 0)
    run.step()
    named = dict(run.model.named_parameters())
    groups = {s.name: [s.name] for s in parameters(run.model.config) if s.name.endswith("_bank")}
    groups["rest"] = [name for name in named if name not in groups]
    assert run.optimizer.groups == tuple(groups)
    for row, names in zip(run.optimizer.statistics.tolist(), groups.values(), strict=True):
        found: dict[str, float] = dict(zip(FIELDS, row, strict=True))
        given = gradients(nn.ParameterList(named[name] for name in names))
        gradient = torch.cat([tensor.flatten() for tensor in given])
        weight = torch.cat([named[name].detach().flatten() for name in names])
        old = torch.cat([before[name].flatten() for name in names])
        on, floor = torch.ones((), device=DEVICE), settings.quant_min_step
        errors = [grid_change(named[name].detach(), on, floor) for name in names if name in groups]
        expected = {
            "gradient": gradient.square().sum(),
            "largest": gradient.abs().max(),
            "nonfinite": 0.0,
            "update": (weight - old).square().sum(),
            "weight": weight.square().sum(),
            "int6_error": sum(error.square().sum() for error in errors),
        }
        for field, value in expected.items():
            assert found[field] == pytest.approx(float(value), rel=1e-3), (names[0], field)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes", [{}, RULES, {"lean": 0.6}], ids=["default", "normuon, cautious", "leaning"]
)
def test_at_real_size_in_bf16_as_near_to_fp32_as_the_plain_optimizer(changes: dict[str, Any]):
    optimizers.check(**changes)


@pytest.mark.gpu
def test_a_graph_of_a_step_follows_levers_and_gradients():
    """Bit for bit what launches from the host do: other rates, a skipped step, no clip."""
    runs = []
    for captured in (False, True):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            run = optimizers.Fused(torch.bfloat16)
            run()
            step = harness.captured(run) if captured else run
            for lr_scale, size in ((0.5, 2.0), (0.25, math.nan), (0.1, 1e-4)):
                run.levers["lr_scale"].fill_(lr_scale)
                torch._foreach_mul_(gradients(run.model), size)
                step()
                for gradient in gradients(run.model):
                    gradient.nan_to_num_(1.0)
        torch.cuda.synchronize()
        assert int(run.optimizer.skipped) == 1
        runs.append(run.state | run.optimizer.tensors())
    for name, tensor in runs[0].items():
        assert torch.equal(tensor, runs[1][name]), name


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, RULES | {"lean": 0.6}], ids=["default", "all rules"])
def test_twenty_steps_side_by_side_are_those_one_after_another(changes: dict[str, Any]):
    """Bit for bit, replayed and launched from the host: what raced on two streams would show."""
    ways = {
        "serial": (streams.serial, False),
        "launched": (nullcontext, False),
        "replayed": (nullcontext, True),
    }
    runs = {}
    for way, (context, replayed) in ways.items():
        with context(), torch.cuda.stream(torch.cuda.Stream()):
            run = optimizers.Fused(torch.bfloat16, **changes)
            run()
            step = harness.captured(run) if replayed else run
            for _ in range(20):
                step()
                torch._foreach_mul_(gradients(run.model), -0.75)
        torch.cuda.synchronize()
        runs[way] = run.state | run.optimizer.tensors() | {"rows": run.optimizer.statistics}
    for name, tensor in runs.pop("serial").items():
        for way, state in runs.items():
            assert torch.equal(tensor, state[name]), (way, name)
