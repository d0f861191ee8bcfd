"""The averaged weights are scored in the middle of a run, on windows that no step takes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from data.shards import TokenStream, write_shard
from errors import InputError
from runtime.progress import Progress
from runtime.ranks import World
from runtime.run_folder import RunFolder, read_log
from swarm.agents.base import Agent, Proposal
from swarm.steering import Steering
from swarm.telemetry import Snapshot
from tests.training.small import small_settings, trainers
from training.held_out import HeldOut, mean_and_error
from training.loop import Loop
from training.measures import BARS
from training.pace import FIRST_STEP
from training.probe import Probe
from training.resuming import load_checkpoint
from training.trainer import Trainer

CHANGES = {"swarm_every": 4, "iterations": 24, "ema_decay": 0.8}
SINGLE = World.single(torch.device("cpu"))


class Reader(Agent):
    """Reads the probe."""

    name: ClassVar[str] = "reader"
    levers: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = BARS

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        return state, ()


@pytest.fixture
def make(token_folder: Path, monkeypatch):
    monkeypatch.setattr("swarm.steering.AGENTS", (Reader,))
    with trainers() as make_trainer:
        yield lambda reads=(), **changes: make_trainer(
            small_settings(**CHANGES | changes), token_folder, reads=reads
        )


def looped(trainer: Trainer, folder: RunFolder | None = None, start=FIRST_STEP) -> Loop:
    nowhere, steering = Progress(None, None, enabled=False), Steering.of(trainer.settings)
    return Loop(trainer, trainer.settings, folder, nowhere, lambda *_: 1.0, steering, start)


def test_a_run_that_nobody_asks_holds_nothing_out_and_never_probes(make):
    trainer = make()
    assert (trainer.probes, trainer.held_out, looped(trainer).probe) == (0, None, None)
    assert make(reads=["bar_change"]).probes == 32
    assert make(reads=["loss"], probes=5).probes == 5
    off = make(reads=["bar_change"], probes=0)
    assert (off.probes, off.held_out) == (0, None)


def test_probes_that_no_setting_asks_for_take_little_of_the_clock(make):
    """A short run has fewer: 32 of 13 ms took 2 % of one of 20 s."""
    for probes, found in ((None, 7), (32, 19)):
        loop = looped(make(reads=["bar_change"], probes=probes, wallclock=20.0, iterations=10**6))
        assert loop.probe
        loop.probe.seconds = 0.013
        assert sum(loop.probe.due(step / 20) for step in range(20)) == found


def test_windows_are_the_end_of_the_split_and_no_step_reads_them(tmp_path):
    """Every token's place is its value in a split as long as the vocabulary."""
    tokens = np.arange(10_000, dtype=np.uint16)
    for number, part in enumerate(np.split(tokens, [6000, 9900])):
        write_shard(tmp_path / f"train_{number}.bin", part)
    stream = TokenStream.open(tmp_path, "train", 10_000)
    held_out = HeldOut(stream, small_settings(), SINGLE)
    assert held_out.count == 31  # a twentieth of the split, in windows of 16
    assert held_out._tokens.flatten().tolist() == list(range(9503, 9999))
    assert held_out._targets.flatten().tolist() == list(range(9504, 10_000))
    assert len(held_out.rest) == 9503
    assert held_out.rest.read(5990, 3513).tolist() == list(range(5990, 9503))
    with pytest.raises(IndexError):
        held_out.rest.read(9000, 504)
    with pytest.raises(InputError, match="too few to hold out 4 windows of 16"):
        HeldOut(stream.first(500), small_settings(), SINGLE)


def test_a_probe_is_the_mean_loss_of_averaged_weights_and_leaves_no_trace(make):
    trainer = make(probes=3)
    loop = looped(trainer)
    loop.steps(6)
    assert loop.probe
    before = {name: t.clone() for name, t in trainer.state.tensors().items()}
    first = loop.probe.measure(6)
    assert all(torch.equal(before[name], t) for name, t in trainer.state.tensors().items())
    tokens, targets = trainer.held_out._tokens[:12], trainer.held_out._targets[:12]
    model = trainer.model
    with torch.no_grad():
        for name, average in trainer.averaging.weights().items():
            model.get_parameter(name).copy_(average)
        nats = model.score(tokens, targets).mean(1)
    assert first["bar"] == pytest.approx(nats.mean().item(), rel=1e-5)
    assert first["bar_error"] == pytest.approx(nats.std().item() / math.sqrt(12), rel=1e-3)
    trainer.averaging.restart()
    second = loop.probe.measure(7)
    assert second["bar_change"] == pytest.approx(second["bar"] - first["bar"])
    assert second["bar_step"] == 7


def test_differences_by_window_are_surer_than_the_means(make):
    trainer = make(probes=30)
    loop = looped(trainer)
    loop.steps(12)
    assert loop.probe
    found = loop.probe.measure(12)
    assert 0 < found["bar_change_error"] < found["bar_error"] / 2


def test_probes_come_at_even_shares_and_agents_and_log_have_them(make, monkeypatch, tmp_path):
    trainer = make(reads=BARS, probes=5)
    folder = RunFolder.create(tmp_path / "run", "x", {})
    loop, seen = looped(trainer, folder), []
    assert loop.steering
    cycle = loop.steering.cycle
    monkeypatch.setattr(
        loop.steering, "cycle", lambda *given: seen.append(cycle(*given)) or seen[-1]
    )
    loop.run()
    probes = [e for e in read_log(folder.log_file) if e["kind"] == "probe"]
    assert [e["step"] for e in probes] == [4, 8, 12, 16, 20]
    assert [s.snapshot.signals["bar_step"] for s in seen] == [4, 8, 12, 16, 20]
    assert [s.snapshot.signals["bar"] for s in seen] == [e["bar"] for e in probes]
    assert seen[0].snapshot.signals["bar_change"] is None
    assert "bar_change" not in probes[0] and "bar_change" in probes[1]
    assert probes[-1]["bar"] < probes[0]["bar"]


def test_probes_change_nothing_of_the_training(make):
    """The same held-out windows, scored and not."""
    runs = [make(probes=5), make(probes=5)]
    loops = [looped(trainer) for trainer in runs]
    loops[1].probe = None
    for loop in loops:
        loop.run()
    one, other = (trainer.state.tensors() for trainer in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_probe_that_does_not_fit_is_left_out(make, monkeypatch):
    loop, measured = looped(make(probes=23, wallclock=0.0)), []
    assert loop.probe
    loop.probe.seconds = 1e9
    loop.budget.seconds = 1000.0
    monkeypatch.setattr(loop.probe, "measure", measured.append)
    loop.run()
    assert loop.step == 24 and not measured


def test_weights_that_are_not_finite_have_no_score(make):
    trainer = make(probes=5)
    probe = Probe(trainer, {})
    for average in trainer.averaging.exponential.values():
        average.fill_(math.nan)
    assert probe.measure(3) == {}
    trainer.averaging.restart()
    assert "bar_change" not in probe.measure(4)


def test_a_resumed_run_probes_on_bit_for_bit(make, tmp_path):
    folders = [RunFolder.create(tmp_path / name, "x", {}) for name in ("whole", "parts")]
    looped(make(probes=5), folders[0]).run()
    first = looped(make(probes=5), folders[1])
    first.steps(10)
    first._save(first.budget.elapsed())
    trainer = make(probes=5, resume=folders[1].path)
    start = load_checkpoint(folders[1].path, trainer, Steering.of(trainer.settings), folders[1])
    looped(trainer, folders[1], start).run()
    whole, parts = (
        [{**e, "time": 0} for e in read_log(folder.log_file) if e["kind"] == "probe"]
        for folder in folders
    )
    assert parts == whole

    off = make(probes=0, resume=folders[1].path)
    with pytest.raises(InputError, match="take probes = 0 out of"):
        load_checkpoint(folders[1].path, off, None, None)


def test_the_mean_of_values_and_its_error():
    assert mean_and_error([1.0, 3.0]) == (2.0, 1.0)
