"""Choice levers in a run: what agents choose is what the steps compute, after a resumption too."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from runtime.progress import Progress
from runtime.run_folder import RunFolder, read_log
from settings.stages import Stage
from swarm.agents.base import Agent, Proposal
from swarm.levers import KEEP, KEPT, ROLLBACK
from swarm.steering import Steering
from swarm.telemetry import Snapshot
from tests.training.small import small_settings, trainers
from training.loop import Loop
from training.pace import FIRST_STEP
from training.resuming import load_checkpoint
from training.trainer import Trainer

CHANGES = {
    "swarm_every": 4,
    "iterations": 16,
    "mtp_num_heads": 2,
    "swarm_windows": [4],
    "swarm_heads": [0],
    "stages": [Stage(until=0.75), Stage(until=1.0, window=8)],
}


class Chooser(Agent):
    """Chooses no heads at a quarter of the run, and the window at a half."""

    name: ClassVar[str] = "chooser"
    levers: ClassVar[tuple[str, ...]] = ("window", "heads")

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        heads = Proposal(self.name, "heads", 0, 0.9, "a quarter")
        window = Proposal(self.name, "window", 4, 0.9, "a half")
        return state, [heads, window] if snapshot.progress >= 0.5 else [heads]


class Idle(Chooser):
    """Could choose, and does not."""

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        return state, ()


class Returner(Agent):
    """Keeps a copy at a quarter of the run, and returns to it at three quarters."""

    name: ClassVar[str] = "returner"
    levers: ClassVar[tuple[str, ...]] = (KEEP, ROLLBACK)

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        wanted = {4: KEEP, 12: ROLLBACK}.get(snapshot.step)
        return state, [Proposal(self.name, wanted, KEPT, 0.9, "now")] if wanted else ()


class Watcher(Idle):
    """Reads what a step takes."""

    reads: ClassVar[tuple[str, ...]] = ("step_ms",)


@pytest.fixture
def make(token_folder: Path):
    """``make()``: a trainer of a run whose agents may choose."""
    with trainers() as make_trainer:
        yield lambda **changes: make_trainer(small_settings(**CHANGES | changes), token_folder)


def steering_of(trainer: Trainer, monkeypatch, kind: type[Agent] = Chooser) -> Steering:
    monkeypatch.setattr("swarm.steering.AGENTS", (kind,))
    monkeypatch.setattr("swarm.steering.MOST_BETWEEN", 1.0)  # no more cycles than settings say
    made = Steering.of(trainer.settings)
    assert made is not None
    return made


def looped(trainer: Trainer, steering: Steering, folder: RunFolder, start=FIRST_STEP) -> Loop:
    nowhere = Progress(None, None, enabled=False)
    return Loop(trainer, trainer.settings, folder, nowhere, lambda *_: 0.0, steering, start)


def variants(folder: RunFolder) -> list[tuple[int, int, int]]:
    """(step, window, heads) of each change."""
    events = read_log(folder.log_file)
    return [(e["step"], e["window"], e["heads"]) for e in events if e["kind"] == "variant"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Chooser, [(0, 0, 2), (4, 0, 0), (8, 4, 0)]), (Idle, [(0, 0, 2), (12, 8, 2)])],
)
def test_a_choice_stands_over_the_stages_and_no_choice_leaves_them(
    make, monkeypatch, tmp_path, kind, expected
):
    trainer, taken = make(), []
    step = trainer.steps.step
    monkeypatch.setattr(
        trainer.steps, "step", lambda variant, *rest: taken.append(variant) or step(variant, *rest)
    )
    folder = RunFolder.create(tmp_path / "run", "x", {})
    looped(trainer, steering_of(trainer, monkeypatch, kind), folder).run()
    assert variants(folder) == expected
    changes = [0, *(i for i in range(1, len(taken)) if taken[i] != taken[i - 1])]
    assert [(i, taken[i].window, taken[i].heads) for i in changes] == expected
    assert set(taken) <= set(trainer.variants)


def test_a_resumed_run_keeps_its_choices_bit_for_bit(make, monkeypatch, tmp_path):
    straight, first, second = make(), make(), make(resume=tmp_path / "first")
    whole = RunFolder.create(tmp_path / "whole", "x", {})
    looped(straight, steering_of(straight, monkeypatch), whole).run()

    folder = RunFolder.create(tmp_path / "first", "x", {})
    loop = looped(first, steering_of(first, monkeypatch), folder)
    loop.steps(10)
    loop._save(loop.budget.elapsed())

    steering = steering_of(second, monkeypatch)
    start = load_checkpoint(folder.path, second, steering, folder)
    assert steering.choices == {"window": 4, "heads": 0}
    looped(second, steering, folder, start).run()
    assert variants(folder)[-1] == (10, 4, 0)
    for name, parameter in straight.model.named_parameters():
        assert torch.equal(parameter, second.model.get_parameter(name)), name


def test_a_resumed_run_returns_to_the_copy_that_was_kept_before(make, monkeypatch, tmp_path):
    none = {"swarm_windows": [], "swarm_heads": []}  # from which it does not choose
    straight, first = make(**none), make(**none)
    second = make(**none, resume=tmp_path / "first")
    whole = RunFolder.create(tmp_path / "whole", "x", {})
    looped(straight, steering_of(straight, monkeypatch, Returner), whole).run()

    folder = RunFolder.create(tmp_path / "first", "x", {})
    loop = looped(first, steering_of(first, monkeypatch, Returner), folder)
    loop.steps(10)
    loop._save(loop.budget.elapsed())

    steering = steering_of(second, monkeypatch, Returner)
    start = load_checkpoint(folder.path, second, steering, folder)
    looped(second, steering, folder, start).run()
    assert [e["step"] for e in read_log(folder.log_file) if e["kind"] == "decision"] == [12]
    for name, parameter in straight.model.named_parameters():
        assert torch.equal(parameter, second.model.get_parameter(name)), name


def test_milliseconds_are_of_the_variant_in_force_and_with_each_option(make, monkeypatch, tmp_path):
    trainer, seen = make(), []
    steering = steering_of(trainer, monkeypatch, Watcher)
    loop = looped(trainer, steering, RunFolder.create(tmp_path / "run", "x", {}))
    cycle = steering.cycle
    monkeypatch.setattr(steering, "cycle", lambda *given: seen.append(cycle(*given)) or seen[-1])
    monkeypatch.setattr(
        loop.pace, "of", lambda variant: 1.0 + variant.window + 0.25 * variant.heads
    )
    loop.run()
    found = [each.snapshot.signals["step_ms"] for each in seen]
    assert found == [[1500.0, 5500.0, 1000.0]] * 2 + [[9500.0, 5500.0, 9000.0]]
