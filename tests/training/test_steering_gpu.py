"""On a GPU: the swarm makes nobody wait, and what it keeps beside a step is the state before it."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from model.parameters import parameters
from runtime.progress import Progress
from swarm.steering import Steering
from training.loop import Loop
from training.metrics import Metrics
from training.schedule import Moment
from training.trainer import Trainer
from training.warm_up import warm_up

pytestmark = pytest.mark.gpu
STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
SCORES = np.linspace(0, 1, 1024, dtype=np.float32)


@contextmanager
def no_syncs() -> Iterator[None]:
    """PyTorch raises where the host would wait for the device, but for an event or on demand."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_detector_sees_a_sync():
    value = torch.ones((), device="cuda")
    with no_syncs(), pytest.raises(RuntimeError, match="synchroniz"):
        value.item()


@pytest.mark.alone
def test_steps_and_decisions_of_all_agents_cause_no_sync(make_wide, monkeypatch):
    changes = {"backend": "kernels", "swarm_every": 2, "kg_scores": "wordnet", "iterations": 60}
    trainer = make_wide(SCORES, **changes, wallclock=0.0)
    steering = Steering.of(trainer.settings)
    assert steering is not None
    assert len(steering.mesh.agents) == 5
    warm_up(trainer, 0)
    rehearsed, rehearse = [], steering.rehearse
    monkeypatch.setattr(
        steering, "rehearse", lambda step, *rest: rehearsed.append(step) or rehearse(step, *rest)
    )
    loop = Loop(
        trainer,
        trainer.settings,
        None,
        Progress(None, None, enabled=False),
        lambda *_: 0.0,
        steering,
    )
    monkeypatch.setattr(loop, "_land", lambda: None)  # the end of all steps is waited for on demand
    with no_syncs():
        loop.steps()
    torch.cuda.synchronize()
    assert loop.step == 60
    assert set(rehearsed) == set(range(2, 60, 2))
    assert steering.kept is not None  # the state was copied
    assert steering.levers["qat"] == 1  # a lever changed


def test_a_snapshot_takes_pinned_host_memory_and_no_device_memory(make_wide):
    trainer: Trainer = make_wide(backend="kernels")
    trainer.step(0, STEADY)
    before = torch.cuda.memory_allocated()
    trainer.snapshots.allocate_buffers()
    trainer.snapshots.take()
    assert torch.cuda.memory_allocated() == before
    assert all(tensor.is_pinned() for tensor in trainer.snapshots._buffers.values())


def test_what_is_kept_beside_a_step_comes_back_bit_for_bit(make_wide):
    trainer: Trainer = make_wide(backend="kernels", averaging="ema")
    warm_up(trainer, 0)
    trainer.step(0, STEADY)
    for first in range(1, 21, 4):
        torch.cuda.synchronize()
        kept = {name: tensor.clone() for name, tensor in trainer.state.tensors().items()}
        trainer.snapshots.take()
        for step in range(first, first + 4):
            trainer.step(step, STEADY)
        moved = trainer.state.tensors()
        assert not torch.equal(moved["model.qo_bank"], kept["model.qo_bank"])
        trainer.snapshots.restore()
        for name, tensor in trainer.state.tensors().items():
            source = name.replace("average.", "model.")  # averages restart
            assert torch.equal(tensor, kept[source]), name


def test_large_weights_shrink_between_replays_and_updates_are_compared(make_wide):
    trainer: Trainer = make_wide(backend="kernels", averaging="ema", reads=("update_ratios",))
    first = trainer.model.up_bank.detach().clone()
    trainer.model.up_bank.data *= 30
    warm_up(trainer, 0)
    metrics = Metrics(trainer.update.groups, {}, trainer.outgoing, trainer.update.fields)

    def ratios(step: int) -> list[float]:
        metrics.push(step, trainer.step(step, STEADY))
        (done,) = metrics.collect(0)
        return done.numbers(["update_ratios"])["update_ratios"]

    qo, kv, up, _ = ratios(0)
    assert up < 0.1 * min(qo, kv)
    trainer.shrink_weights()
    torch.testing.assert_close(trainer.model.up_bank, first, rtol=0.1, atol=0.02)
    before = trainer.model.up_bank.detach().clone()
    qo, kv, up, _ = ratios(1)
    after = trainer.model.up_bank.detach()
    assert up == pytest.approx(((after - before).norm() / after.norm()).item(), rel=1e-3)
    assert up > 0.5 * min(qo, kv)


def test_norms_of_layers_are_measured_in_the_update_s_graph(make_wide):
    trainer = make_wide(backend="kernels", reads=("layer_gradient_norms",))
    warm_up(trainer, 1)
    layers, found = trainer.settings.num_layers, []
    assert trainer.update.measures.sizes == {"layer_gradient_norms": layers}
    for step in range(3):
        found.append(trainer.step(step, STEADY)[-layers:].cpu())
        norms = torch.zeros(layers, dtype=torch.float64, device="cuda")
        for spec in parameters(trainer.model.config):
            gradient = trainer.shards.own[spec.name].grad
            if gradient is not None and spec.slices:
                for row, of in zip(gradient, spec.slices, strict=True):
                    norms[of.layer] += row.double().square().sum()
        torch.testing.assert_close(found[-1].double(), norms.sqrt().cpu(), rtol=1e-5, atol=0)
    assert not torch.equal(found[0], found[2])  # replays measure anew


def test_momentum_and_windows_are_measured_in_replayed_graphs(make_wide):
    trainer = make_wide(
        backend="kernels", reads=("momentum_cosine", "noise_scale", "window_spread")
    )
    warm_up(trainer, 2)
    shards, found = trainer.shards, []
    momenta = {
        name: trainer.update.tensors()[f"muon.momentum.{name}"]
        for name in ("qo_bank", "kv_bank", "up_bank", "down_bank")
    }
    for step in range(3):
        before = {name: momentum.double().clone() for name, momentum in momenta.items()}
        cosine, noise, signal, spread = trainer.step(step, STEADY)[-4:].double()
        gradients = {name: shards.own[name].grad.double() for name in before}
        both = torch.stack([(gradients[name] * before[name]).sum() for name in before]).sum()
        squares = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum()
        momentum = torch.stack([each.square().sum() for each in before.values()]).sum()
        if step:
            assert_close = torch.testing.assert_close
            assert_close(cosine, both / (squares * momentum).sqrt(), rtol=1e-3, atol=1e-5)
            assert_close(
                signal, both * (1 - STEADY.momentum), rtol=1e-3, atol=1e-6 * squares.item()
            )
            assert_close(noise + signal, squares, rtol=1e-4, atol=0)
        assert spread > 0
        found.append(spread)
    assert len(set(map(float, found))) == 3  # replays measure anew
