"""A trial in a run: lost, it leaves weights, moments and levers as they were before it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from runtime.progress import Progress
from settings.variants import Variant
from swarm.agents.base import Agent, Bid
from swarm.mesh import Cycle
from swarm.steering import Steering
from swarm.telemetry import Snapshot
from swarm.trials import Trials
from tests.training.small import small_settings, trainers
from training.loop import Loop
from training.schedule import Moment

EVERY = 8


class Hopeful(Agent):
    """Bids for half the rate, unsurely, until it is lower."""

    reads: ClassVar[tuple[str, ...]] = ("bar", "bar_step")

    name: ClassVar[str] = "hopeful"
    levers: ClassVar[tuple[str, ...]] = ("lr_factor",)
    keeps_start: ClassVar[bool] = True

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Bid]]:
        if snapshot.levers["lr_factor"] < 1:
            return state, ()
        return state, [Bid(self.name, "lr_factor", 0.5, 1.0, 2.0, "hope")]


@pytest.mark.parametrize("gain", [-9.0, 9.0])
def test_a_trial_that_is_lost_leaves_everything_as_it_was(
    token_folder: Path, monkeypatch: pytest.MonkeyPatch, gain: float
):
    monkeypatch.setattr("swarm.steering.AGENTS", (Hopeful,))
    changes = {"iterations": 88, "probes": 0, "swarm_every": EVERY, "swarm_agents": "frontier"}
    settings = small_settings(**changes, swarm_trials=1)
    with trainers() as make:
        trainer = make(settings, token_folder)
        steering = Steering.of(settings)
        assert steering
        mesh = steering.mesh
        assert isinstance(mesh, Trials)
        cycle, take = steering.cycle, trainer.step
        losses: list[float] = []
        states: list[dict[str, Tensor]] = []
        factors: list[float] = []

        def cycled(step: int, progress: float, lr_scale: float) -> Cycle:
            bar = 4.0 - math.log(step) - gain * (mesh.trial is not None)
            steering.note(bar=bar, bar_step=float(step))
            return cycle(step, progress, lr_scale)

        def stepped(step: int, moment: Moment, variant: Variant | None = None) -> Tensor:
            live = trainer.state.weights_and_moments()
            states.append({name: tensor.clone() for name, tensor in live.items()})
            losses.append(steering._telemetry.loss)
            factors.append(trainer.levers.value("lr_factor"))
            return take(step, moment, variant)

        steering.cycle, trainer.step = cycled, stepped
        nowhere = Progress(None, None, enabled=False)
        loop = Loop(trainer, settings, None, nowhere, lambda *_: 0.0, steering)
        loop.run()
    begin = factors.index(0.5)
    end = begin + 4 * EVERY
    assert begin == 5 * EVERY
    assert mesh.trial is None
    same = [torch.equal(states[end][name], before) for name, before in states[begin].items()]
    if gain > 0:
        assert not all(same)
        assert set(factors[begin:]) == {0.5}
    else:
        assert all(same)
        assert losses[end] == losses[begin] != losses[end - 1]
        assert set(factors[end:]) == {1.0}
    assert loop.course.rollbacks == 0
