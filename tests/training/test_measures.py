"""Signals: what an agent reads is measured, copied and logged; what nobody reads is not."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import swarm.levers
import swarm.steering
import swarm.telemetry
import training.device_levers
import training.measures
import training.metrics
from runtime.progress import Progress
from runtime.run_folder import RunFolder
from settings.load import load_settings
from swarm.agents.base import Agent, Proposal
from swarm.decision_log import read
from swarm.levers import LEVERS, Lever, Number
from swarm.replay import replay
from swarm.steering import Steering
from swarm.telemetry import SIGNALS, Signal, Snapshot, Telemetry
from tests.small import NETWORK
from tests.training.small import small_settings, trainers
from training.averaging import decay_at
from training.gradient_signals import LayerGradientNorms
from training.loop import Loop
from training.measures import MEASURES, Measured
from training.metrics import Finished, Metrics
from training.schedule import Moment
from training.trainer import Trainer

STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
NORMS, LAYERS = "layer_gradient_norms", NETWORK["num_layers"]


class Reader(Agent):
    """Reads the norms of the layers' gradients, and proposes their largest as the clip."""

    name: ClassVar[str] = "reader"
    levers: ClassVar[tuple[str, ...]] = ("clip",)
    reads: ClassVar[tuple[str, ...]] = (NORMS,)

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        largest = max(snapshot.signals[NORMS])
        return state, [Proposal(self.name, "clip", largest, 0.9, "largest")]


@pytest.fixture
def make(token_folder: Path):
    """``make(reads, **changes)``: a trainer whose agents read these signals."""
    with trainers() as make_trainer:
        yield lambda reads=(), **changes: make_trainer(
            small_settings(**changes), token_folder, reads=reads
        )


def looped(trainer: Trainer, steering: Steering | None, folder: RunFolder | None) -> Loop:
    """The loop of a run, after its last step."""
    settings = trainer.settings
    nowhere = Progress(None, None, enabled=False)
    loop = Loop(trainer, settings, folder, nowhere, lambda *_: 0.0, steering)
    loop.run()
    return loop


def steering_of(trainer: Trainer) -> Steering:
    made = Steering.of(trainer.settings)
    assert made is not None
    return made


def expected_norms(trainer: Trainer) -> np.ndarray:
    """Norms of the layers' gradients in fp64, by the names of their parameters."""
    gradients = {
        name: parameter.grad.double().square()
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }
    squares = torch.zeros(LAYERS, dtype=torch.float64)
    for name in ("qo_bank", "kv_bank"):
        for half in gradients[name].chunk(2):
            squares += half.flatten(1).sum(1)
    for name in ("up_bank", "down_bank", "mix", "attn_scale", "mlp_scale", "q_gain"):
        squares += gradients[name].flatten(1).sum(1)
    stacked = trainer.model.config
    for name, of in (
        ("value_layer_scale", stacked.value_layers),
        ("gate_weight", range(LAYERS)),
        ("gate_bias", range(LAYERS)),
        ("value_residual", range(LAYERS)),
        ("skip_weight", range(stacked.num_skips, 2 * stacked.num_skips)),
    ):
        if name in gradients:
            for row, layer in zip(gradients[name], of, strict=True):
                squares[layer] += row.sum()
    return squares.sqrt().numpy()


def test_norms_of_layers_are_those_before_the_clip(make):
    trainer = make([NORMS], grad_clip_norm=0.0)
    numbers = trainer.step(0, STEADY)
    found = numbers[-LAYERS:].double().numpy()
    np.testing.assert_allclose(found, expected_norms(trainer), rtol=1e-5)
    clipped = make([NORMS], grad_clip_norm=1e-3).step(0, STEADY)
    assert torch.equal(clipped, numbers)


def test_a_run_s_agent_reads_what_the_device_measured_and_the_log_has_it(
    make, monkeypatch, tmp_path
):
    monkeypatch.setattr("swarm.steering.AGENTS", (Reader,))
    monkeypatch.setattr("swarm.replay.AGENTS", (Reader,))
    changes = {"swarm_every": 4, "iterations": 12, "grad_clip_norm": 0.3, "matrix_lr": 1e-9}
    trainer = make(Reader.reads, **changes)
    steering, rows = steering_of(trainer), []
    take = trainer.step
    trainer.step = lambda *given: rows.append(take(*given).clone()) or rows[-1]
    folder = RunFolder.create(tmp_path / "run", "x", {})
    steering.log_to(folder.decisions)
    looped(trainer, steering, folder)
    steering.close()
    records = list(read(folder.decisions))
    first, second = [record["snapshot"] for record in records[1:]]
    for seen, of in ((first, rows[:4]), (second, rows[4:8])):
        mean = torch.stack([row[-LAYERS:] for row in of]).double().mean(0)
        np.testing.assert_allclose(seen[NORMS], mean.numpy(), rtol=1e-12)
    assert not {"loss", "int6_error", "gradient_norm"} & first.keys()  # nobody reads them
    assert replay(folder.decisions, records) == (2, [])
    records[1]["snapshot"][NORMS][0] += 1.0
    assert replay(folder.decisions, records)[1]


def test_what_nobody_reads_is_neither_measured_nor_copied(make, monkeypatch):
    called: list[str] = []

    def noted(cls, name):
        measure = getattr(cls, name)
        monkeypatch.setattr(cls, name, lambda *given: called.append(name) or measure(*given))

    noted(LayerGradientNorms, "__call__")
    noted(LayerGradientNorms, "__init__")
    plain = make().step(0, STEADY)
    assert called == []
    read_by_one = make([NORMS]).step(0, STEADY)
    assert called == ["__init__", "__call__"]
    assert len(read_by_one) == len(plain) + LAYERS
    assert torch.equal(read_by_one[:-LAYERS], plain)


def test_what_nobody_reads_is_not_derived_on_the_host(monkeypatch):
    called: list[object] = []
    monkeypatch.setitem(training.metrics.ON_HOST, "int6_error", lambda of: called.append(of) or 0.5)
    done = Finished(0, 1.0, 1.0, 0, {}, {})
    assert (done.numbers({"loss"}), called) == ({}, [])
    assert (done.numbers({"int6_error"}), called) == ({"int6_error": 0.5}, [{}])


def test_a_signal_that_is_measured_nowhere_is_refused_at_the_start(make, monkeypatch):
    table = (*SIGNALS, Signal("nowhere"))
    monkeypatch.setattr(training.measures, "SIGNALS", table)
    with pytest.raises(KeyError, match="nowhere"):
        make(["nowhere"])
    with pytest.raises(KeyError, match="no signal 'layer_norms'"):
        Telemetry(["layer_norms"])


def test_a_row_of_numbers_is_cut_by_the_tables():
    metrics = Metrics(("a", "b"), {"one": 1, "two": 2})
    metrics.push(0, torch.arange(3.0 + 12 + 3))
    (done,) = metrics.collect(0)
    assert (done.loss, done.gradient_norm, done.skipped) == (0.0, 1.0, 2)
    assert [list(of.values()) for of in done.groups.values()] == [
        [3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        [9.0, 10.0, 11.0, 12.0, 13.0, 14.0],
    ]
    assert done.measured == {"one": 15.0, "two": [16.0, 17.0]}
    assert done.numbers(()) == done.measured
    assert done.numbers({"int6_error"})["int6_error"] == pytest.approx(((8 + 14) / (7 + 13)) ** 0.5)
    metrics.push(1, torch.arange(19.0))
    with pytest.raises(AssertionError, match="other numbers"):
        metrics.collect(0)


class Follower(Agent):
    """Sets the lever that the test adds to the signal that the test adds."""

    name: ClassVar[str] = "follower"
    levers: ClassVar[tuple[str, ...]] = ("added_lever",)
    reads: ClassVar[tuple[str, ...]] = ("added_signal",)

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        value = snapshot.signals["added_signal"]
        return state, [Proposal(self.name, "added_lever", value, 0.9, "followed")]


def test_a_lever_and_a_signal_more_are_two_lines_each(make, monkeypatch):
    lever = Lever("added_lever", lambda _: 1.0, lambda _: Number(0.0, 100.0, 100.0, 0.0, 0))
    for module in (swarm.levers, swarm.steering, training.device_levers):
        monkeypatch.setattr(module, "LEVERS", (*LEVERS[:3], lever, *LEVERS[3:]))
    signal = Signal("added_signal", window="max")
    for module in (swarm.telemetry, training.measures):
        monkeypatch.setattr(module, "SIGNALS", (*SIGNALS, signal))

    def constant(*_: object):
        return lambda: torch.tensor(7.0)

    monkeypatch.setitem(training.measures.MEASURES, "added_signal", constant)
    monkeypatch.setattr("swarm.steering.AGENTS", (Follower,))
    trainer = make(Follower.reads, swarm_every=2, iterations=4)
    on_device: Tensor = trainer.levers["added_lever"]  # as a kernel holds it
    trainer.levers.push()
    assert on_device.item() == 1.0
    steering = steering_of(trainer)
    looped(trainer, steering, None)
    assert steering.decided == {"added_lever": 7.0}
    assert on_device.item() == 7.0
    assert trainer.levers["lr_factor"].item() == 1.0
    scheduled = decay_at(trainer.settings.ema_decay, 4)  # of the last step
    assert trainer.levers["averaging_decay"].item() == pytest.approx(scheduled)
    assert trainer.levers["clip"].item() == pytest.approx(trainer.settings.grad_clip_norm)


def test_an_older_checkpoint_s_telemetry_loads():
    """The list and the levers that a swarm's state had at commit 544b84a."""
    names = list(swarm.telemetry.LISTED)
    values = [3, 0.04, 2, 2.5, 2.4, 0.3, 0.7, 0.1, 0.4, 0.0, 0.01]
    swarm_now = Steering.of(load_settings(["--agents-off", "qat,mtp"], {}))
    assert swarm_now is not None
    state = json.loads(json.dumps(swarm_now.state())) | {"telemetry": values}
    del state["levers"]["skip_norm"]
    swarm_now.load(state)
    now = swarm_now._telemetry.state()
    assert {name: now[name] for name in names if name != "error"} == {
        name: value for name, value in zip(names, values, strict=True) if name != "error"
    }
    assert swarm_now.levers["skip_norm"] == 3e38
    reader = Telemetry(["int6_error"])
    reader.load(values)
    assert reader.snapshot(0, 0.0, 1.0, None, {"qat": 0.0}).signals == {"int6_error": 0.04}


def test_the_banks_momentum_is_compared_with_their_gradient_before_the_step(make):
    trainer = make(["momentum_cosine", "noise_scale"], grad_clip_norm=0.0)
    assert trainer.step(0, STEADY)[-3:-2].isnan()  # there is no momentum yet
    before = {
        name[len("muon.momentum.") :]: tensor.double().clone()
        for name, tensor in trainer.update.tensors().items()
        if name.startswith("muon.momentum.")
    }
    assert len(before) == 4
    cosine, noise, signal = trainer.step(1, STEADY)[-3:].double()
    gradients = {name: trainer.shards.own[name].grad.double() for name in before}
    both = torch.stack([(gradients[name] * before[name]).sum() for name in before]).sum()
    squares = torch.stack([gradients[name].square().sum() for name in before]).sum()
    momenta = torch.stack([momentum.square().sum() for momentum in before.values()]).sum()
    torch.testing.assert_close(cosine, both / (squares * momenta).sqrt(), rtol=1e-5, atol=0)
    torch.testing.assert_close(signal, both * 0.05, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(noise + signal, squares, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_the_noise_scale_is_that_of_gradients_with_noise(scale):
    """Of 1,000 numbers, whose noise has ``scale`` times the square of their mean."""
    draw, beta, world = torch.Generator().manual_seed(0), torch.tensor(0.9), SimpleNamespace()
    world.device = "cpu"
    bank, momentum = torch.zeros(10, 100), {"bank": torch.zeros(10, 100)}
    shards: Any = SimpleNamespace(own={"bank": bank}, banks={}, world=world)
    network: Any = None
    measured = Measured(network, shards, momentum, beta, None)
    measure, telemetry = MEASURES["noise_scale"](measured), Telemetry(["noise_scale"])
    mean = torch.randn(10, 100, generator=draw)
    for step in range(400):
        bank.grad = gradient = mean + scale**0.5 * torch.randn(10, 100, generator=draw)
        numbers = {"noise_scale": measure().tolist()}
        if step >= 100:  # the momentum has as many gradients as it ever has
            telemetry.add(1.0, 1.0, numbers)
        momentum["bank"].mul_(beta).add_(gradient)
    found = telemetry.snapshot(400, 0.5, 1.0, None, {"qat": 0.0}).signals["noise_scale"]
    assert found == pytest.approx(scale * 1000 / mean.square().sum().item(), rel=0.05)


def test_a_ratio_is_of_sums_and_has_bounds():
    def ratio(*steps):
        telemetry = Telemetry(["noise_scale"])
        for step in steps:
            telemetry.add(1.0, 1.0, {"noise_scale": list(step)})
        return telemetry.snapshot(1, 0.5, 1.0, None, {"qat": 0.0}).signals["noise_scale"]

    assert ratio((1.0, 2.0), (5.0, 1.0)) == 2.0
    assert ratio((1.0, -1.0)) == ratio((1.0, 0.0)) == 1000.0
    assert ratio((-1.0, 2.0)) == ratio((0.0, 0.0)) == 0.0
    assert ratio((math.nan, 1.0), (3.0, 1.0)) == 3.0
    assert ratio() is None


@pytest.mark.parametrize("micro", [192, 48])
def test_the_spread_of_windows_is_that_of_their_means(make, micro):
    trainer, rows = make(["window_spread"], micro_batch_tokens=micro), []
    for variant in trainer.steps.gradients.values():
        forward = variant.forward

        def noted(*batch, forward=forward):
            loss, nats = forward(*batch)
            rows.append(nats.detach().double().mean(1))
            return loss, nats

        variant.forward = noted
    for step in range(2):  # the second one begins anew
        rows.clear()
        spread = trainer.step(step, STEADY)[-1].double()
        assert len(rows) == 192 // micro
        expected = torch.cat(rows).std(correction=0)
        torch.testing.assert_close(spread, expected, rtol=1e-5, atol=0)
    read, unread = (make(reads, micro_batch_tokens=micro) for reads in (["window_spread"], []))
    assert torch.equal(read.step(0, STEADY)[:-1], unread.step(0, STEADY))
