"""Rates and weights that do not fit each other: what a run measures, and how it goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels.optimizer.statistics import FIELDS
from swarm.agents.stride import Stride
from swarm.steering import Steering
from tests.training.small import small_settings, trainers
from tests.training.test_steering import Watched
from training.metrics import Metrics, update_ratios
from training.schedule import Moment
from training.trainer import Trainer

STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
READS = ["update_ratios"]
MakeRun = Callable[..., Trainer]


@pytest.fixture
def make(token_folder: Path) -> Iterator[MakeRun]:
    """``make(**changes)``: a trainer whose agents compare updates with weights."""
    with trainers() as make_trainer:

        def make_one(**changes: object) -> Trainer:
            steered = {"swarm_agents": "frontier", "swarm_every": 8, "val_loss_every": 1}
            settings = small_settings(**(steered | changes))
            return make_trainer(settings, token_folder, reads=READS)

        yield make_one


def banks(trainer: Trainer) -> dict[str, Tensor]:
    named = trainer.model.named_parameters()
    return {name: bank.detach().clone() for name, bank in named if name.endswith("_bank")}


def test_updates_are_compared_with_weights(make):
    trainer = make()
    metrics = Metrics(trainer.update.groups, {}, None, trainer.update.fields)
    before = banks(trainer)
    metrics.push(0, trainer.step(0, STEADY))
    after, (done,) = banks(trainer), metrics.collect(0)
    expected = [(after[name] - before[name]).norm() / after[name].norm() for name in after]
    torch.testing.assert_close(torch.tensor(update_ratios(done.groups)), torch.stack(expected))
    assert done.numbers(["update_ratios", "int6_error"])["int6_error"] is None


def test_what_nobody_compares_is_not_measured(make, token_folder):
    with trainers() as make_trainer:
        trainer = make_trainer(small_settings(), token_folder)
        assert trainer.step(0, STEADY).shape == (3,)


def test_a_group_without_weights_has_no_ratio():
    groups: dict[str, dict[str, float]] = {
        name: {str(field): number for field in FIELDS}
        for name, number in (("one_bank", 0.0), ("rest", 1.0))
    }
    assert update_ratios(groups) == [float("inf")]  # which telemetry leaves out
    assert update_ratios({}) is None


def test_matrices_far_over_their_first_norm_get_it_again(make):
    trainer = make()
    first = banks(trainer)
    with torch.no_grad():
        for name, bank in trainer.model.named_parameters():
            if name in first:
                bank[0] *= 30
                bank[-1] = 3 * bank[-1] + 7.0 * (name in ("qo_bank", "down_bank"))
    large = banks(trainer)
    trainer.shrink_weights()
    for name, bank in banks(trainer).items():
        grown = name == "down_bank"  # it began at zero
        torch.testing.assert_close(bank[0], large[name][0] if grown else first[name][0])
        assert torch.equal(bank[1:], large[name][1:]), name
    averages = trainer.averaging.exponential
    assert all(torch.equal(averages[name], bank) for name, bank in banks(trainer).items())


def test_a_run_that_begins_with_large_weights_begins_again_with_small_ones(make, monkeypatch):
    """So small a network learns well with them; one that does not has a bad loss."""
    monkeypatch.setattr(Stride, "of", lambda _: Stride(nothing=0.0))
    ends = []
    for times in (1.0, 30.0):
        trainer = make(iterations=64)
        trainer.model.up_bank.data *= times
        ends.append(Watched(trainer).run())
    clean, ours = ends
    assert clean.steering and "rescale" not in clean.steering.mesh.turns
    assert ours.steering and "rescale" in ours.steering.mesh.turns
    kept = ours.trainer.snapshots.tensors()
    assert kept["model.up_bank"].norm() < 2 * clean.trainer.model.up_bank.norm()
    for name, bank in banks(clean.trainer).items():
        assert banks(ours.trainer)[name].norm() == pytest.approx(bank.norm().item(), rel=0.2)
    assert sum(ours.losses[-8:]) / 8 < sum(clean.losses[-8:]) / 8 + 0.1


def test_rates_ten_times_too_high_are_lowered_and_the_start_is_taken_back(make):
    ends = []
    for times, agents_off in ((1.0, []), (10.0, []), (10.0, ["stride"])):
        changes = {"matrix_lr": 0.04 * times, "tied_embed_lr": 0.04 * times}
        changes |= {"scalar_lr": 0.02 * times, "agents_off": agents_off}
        ends.append(Watched(make(iterations=96, **changes)).run())
    clean, ours, _ = ends
    assert clean.decided[-1]["lr_fit"] == 1.0
    assert 1 / 16 < ours.decided[-1]["lr_fit"] < 0.2
    assert ours.first("lr_fit") == 8
    last = [sum(end.losses[-8:]) / 8 for end in ends]
    assert last[1] - last[0] < (last[2] - last[0]) / 2


def test_the_agent_is_one_of_the_set_frontier(make):
    steering = Steering.of(make().settings)
    assert steering and Stride.name in [agent.name for agent in steering.mesh.agents]
