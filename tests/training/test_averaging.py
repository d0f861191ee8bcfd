"""EMA and LAWA against their formulas, and their state taken back."""

from dataclasses import replace

import pytest
import torch

from kernels.optimizer.reference import lean_
from tests.training.small import small_settings
from training.averaging import ExponentialAverage, LatestAverage, lean_at, longest_decay
from training.schedule import Moment


def test_exponential_average_is_its_formula():
    weight = torch.ones(3, dtype=torch.float64)
    average = ExponentialAverage({"w": weight}, decay=0.9)
    expected = weight.clone()
    for step in range(1, 6):
        weight.add_(step)
        average.move()
        expected = 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(average.weights()["w"], expected)


def test_the_half_life_of_an_average_is_a_share_of_the_run(make_trainer):
    """A step took 1 % of the run, so ten are a tenth of it; the first steps forget the start."""
    trainer = make_trainer(ema_share=0.1, iterations=100)
    moment = Moment(progress=0.8, lr_scale=1.0, momentum=0.9, qat=False)
    trainer.step(80, moment)
    assert trainer.levers.value("averaging_decay") ** 10 == pytest.approx(0.5)
    trainer.step(4, replace(moment, progress=0.04))
    assert trainer.levers.value("averaging_decay") == 0.0
    assert not trainer.averaging.young(100)
    assert longest_decay(small_settings(ema_share=0.1), 0, 0.0) == 0.0


def test_weights_lean_by_the_mean_step_of_their_average(make_trainer):
    """Nesterov's look-ahead, which keeps a mean of the steps, is the same from the average.

    x is the weight of before the look-ahead, m the mean of x's steps.
    """
    decay, strength, steps = 0.75, 0.6, [3.0, -1.0, 2.0, 0.5]
    weight, mean, momentum = torch.zeros(1), {"w": torch.zeros(1)}, 0.0
    for step in steps:
        before = weight.item() - strength * momentum
        weight += step
        momentum = decay * momentum + (1 - decay) * (weight.item() - before)
        ahead = weight.item() + strength * momentum
        mean["w"].lerp_(weight, 1 - decay)
        lean_({"w": weight}, mean, lean_at(strength, decay))
        assert weight.item() == pytest.approx(ahead, rel=1e-6)
    assert lean_at(strength, 0.0) == 0.0


def test_a_run_leans_where_its_schedule_says(make_trainer):
    """A step on a CPU; without the setting no lever does anything."""
    trainer, plain = (make_trainer(lean=lean, ema_decay=0.5) for lean in (0.5, 0.0))
    moment = Moment(progress=0.5, lr_scale=1.0, momentum=0.9, qat=False)
    weights = []
    for each, ahead in ((trainer, 0.5), (trainer, 0.0), (plain, 0.0)):
        each.step(20, replace(moment, lean=ahead))
        average = each.averaging.weights()["tok_emb"]
        weights.append((each.model.tok_emb.detach().clone(), average.clone()))
    assert trainer.levers.value("lean") == 0.0
    (leant, mean), _, (left, plain_mean) = weights
    assert torch.equal(mean, plain_mean)
    torch.testing.assert_close(leant, left + 0.5 * (left - mean))


def test_only_exponential_averages_may_be_moved_from_outside():
    weight = torch.zeros(2)
    average, latest = ExponentialAverage({"w": weight}, 0.9), LatestAverage({"w": weight}, 2, 1)
    latest.take(1)
    average.exponential["w"].fill_(3.0)
    assert average.weights()["w"].tolist() == [3.0, 3.0]
    assert latest.exponential == {}


def test_latest_average_is_the_mean_of_the_last_snapshots():
    weight = torch.zeros(2)
    average = LatestAverage({"w": weight}, count=3, every=2)
    assert average.weights() == {}
    for step in range(1, 12):
        weight.fill_(float(step))
        average.take(step)
    assert average.weights()["w"].tolist() == [8.0, 8.0]  # steps 6, 8, 10


def test_latest_average_takes_its_state_back_to_where_the_weights_are():
    on_host = LatestAverage({"w": torch.ones(2)}, count=2, every=1)
    on_host.take(1)
    elsewhere = LatestAverage({"w": torch.ones(2, device="meta")}, count=2, every=1)
    elsewhere.load(on_host.tensors())
    assert elsewhere.tensors()["average.0.w"].is_meta


def test_latest_average_goes_on_from_its_state():
    weight = torch.zeros(2)
    average = LatestAverage({"w": weight}, count=2, every=1)
    weight.fill_(1.0)
    average.take(1)
    other = LatestAverage({"w": weight}, count=2, every=1)
    other.load(average.tensors())
    weight.fill_(3.0)
    other.take(2)
    assert other.weights()["w"].tolist() == [2.0, 2.0]
