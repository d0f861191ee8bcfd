"""Hessians of training's next batches, in the time that the budget leaves to them."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from artifact.export import export, load
from artifact.quantisation.calibration import Calibration
from artifact.quantisation.hessians import collect
from artifact.quantisation.recipe import Recipe, Role
from model.parameters import exported, roles
from runtime.progress import Progress
from tests.training.small import small_settings, trainers, write_tokens
from training.budget import Budget
from training.loop import Loop
from training.snapshots import holding
from training.trainer import Trainer
from training.warm_up import warm_up


@pytest.fixture
def make(tmp_path: Path):
    """``make(**changes)``: a trainer of 12 windows of 16 tokens a step, in 3 micro-batches."""
    write_tokens(tmp_path)
    values: dict[str, object] = {
        "num_layers": 2,
        "ve_enabled": False,
        "bigram_vocab_size": 0,
        "micro_batch_tokens": 64,
        "iterations": 30,
        "ema_decay": 0.9,
        "calibration_tokens": 320,
    }
    with trainers() as make_one:
        yield lambda **changes: make_one(small_settings(**(values | changes)), tmp_path)


def calibration_of(trainer: Trainer) -> Calibration:
    tokens = trainer.settings.calibration_tokens
    return Calibration(trainer.model, trainer.loader, trainer.world, tokens)


def hessians_of(trainer: Trainer, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of the model while it holds other weights."""
    with holding(trainer.model, weights, trainer.world):
        return calibration_of(trainer).hessians()


def test_hessians_are_of_the_batches_that_training_would_take_next(make) -> None:
    trainer, twin = make(), make()
    for each in (trainer, twin):
        each.loader.next_step()
    calibration = calibration_of(trainer)
    assert calibration.tokens == 320  # a step of three micro-batches, and two of the next
    found = calibration.hessians()
    batches = [tokens for _ in range(2) for tokens, *_ in twin.loader.next_step()][:5]
    expected = collect(twin.model, batches)
    assert found.keys() == expected.keys()
    for name, hessian in expected.items():
        torch.testing.assert_close(found[name], hessian, rtol=0, atol=0)
    assert calibration.seconds > 0


def test_hessians_are_of_the_weights_that_are_given(make) -> None:
    trainer = make()
    live = {name: p.detach().clone() for name, p in exported(trainer.model).items()}
    other = {"up_bank": 2 * live["up_bank"]}
    plain, doubled = (hessians_of(make(), w)["down_bank"][0] for w in ({}, other))
    # The first layer's hidden state is leaky_relu(up x)^2.
    torch.testing.assert_close(doubled, 16 * plain)
    hessians_of(trainer, other)
    torch.testing.assert_close(exported(trainer.model)["up_bank"].detach(), live["up_bank"])


def test_sensitivities_come_along_if_the_loss_chooses_steps(make) -> None:
    trainer, twin = make(), make()
    found = Calibration(trainer.model, trainer.loader, trainer.world, 320, by_loss=True).hessians()
    batches = [tokens for _ in range(2) for tokens, *_ in twin.loader.next_step()][:5]
    expected = collect(twin.model, batches, by_loss=True)
    assert found.keys() == expected.keys() and "up_bank.rows" in found
    assert all(torch.equal(found[name], wanted) for name, wanted in expected.items())


def test_no_tokens_turn_it_off(make) -> None:
    trainer = make(calibration_tokens=0, wallclock=5.0)
    calibration = calibration_of(trainer)
    calibration.reserve(5.0)
    assert calibration.hessians() == {}
    assert calibration.facts == {"tokens": 0, "reserved": 0.0, "seconds": 0.0}
    assert trainer.loader.position == 0


def test_inputs_that_overflow_have_no_hessian(make) -> None:
    trainer = make()
    huge = {"up_bank": torch.full_like(exported(trainer.model)["up_bank"], 1e15)}
    found = hessians_of(trainer, huge)
    assert "down_bank" not in found
    assert calibration_of(make()).hessians().keys() == found.keys() | {"down_bank"}


def test_a_rehearsal_leaves_no_trace(make) -> None:
    trainer, twin = make(wallclock=60.0), make()
    before = {name: tensor.clone() for name, tensor in trainer.state.tensors().items()}
    for each in (trainer, twin):
        each.loader.next_step()
    calibration_of(trainer).reserve(trainer.settings.wallclock)
    assert all(torch.equal(before[name], t) for name, t in trainer.state.tensors().items())
    (ours, *_), (theirs, *_) = trainer.loader.next_step()[0], twin.loader.next_step()[0]
    assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("cpu_clock")
def test_steps_and_calibration_end_inside_the_wallclock(make) -> None:
    # A tenth of the time is the calibration's: without it, training alone would fill it.
    trainer = make(wallclock=3.0, iterations=100_000, calibration_tokens=12_800)
    warm_up(trainer, 2)
    calibration = calibration_of(trainer)
    calibration.reserve(3.0)
    assert 0.1 < calibration.reserved < 2.9
    progress = Progress(None, None, enabled=False)
    loop = Loop(
        trainer,
        trainer.settings,
        None,
        progress,
        lambda *_: 1.0,
        budget=Budget(3.0, 100_000, reserved=calibration.reserved),
    )
    loop.run()
    mean = loop.budget.elapsed() / loop.step
    assert 3.0 - calibration.reserved - 5 * mean < loop.budget.elapsed()
    assert loop.budget.elapsed() < 3.0 - calibration.reserved + 5 * mean
    begin = time.perf_counter()
    with holding(trainer.model, trainer.averaging.weights(), trainer.world):
        calibration.hessians()
    assert loop.budget.elapsed() + time.perf_counter() - begin < 3.0 + 5 * mean


@pytest.mark.usefixtures("cpu_clock")
def test_calibration_takes_no_more_than_its_share_of_a_short_run(make) -> None:
    """Part 3, newcomer's 3: it reserved 4.3 of 8 s, and all of a shorter run was refused."""
    calibration = calibration_of(make(wallclock=0.5, calibration_tokens=786_432))
    assert "in place of 786,432 tokens, to take at most 10% of 0.5 s" in calibration.reserve(0.5)
    assert 0 <= calibration.reserved <= 0.05
    assert calibration.tokens == 64 * calibration.micro_batches
    none = calibration_of(make(wallclock=1e-6, calibration_tokens=786_432))
    none.reserve(1e-6)
    assert (none.reserved, none.tokens, none.hessians()) == (0.0, 0, {})
    whole = calibration_of(make(wallclock=1e6, calibration_tokens=1_920))
    assert whole.reserve(1e6) == "" and whole.tokens == 1_920


def test_a_trained_model_loses_less_with_than_without(make, tmp_path: Path) -> None:
    trainer = make()
    Loop(trainer, trainer.settings, None, Progress(None, None, False), lambda *_: 1.0).run()
    weights = exported(trainer.model)
    recipe = Recipe(Role(3), Role(3))
    found = calibration_of(trainer).hessians()
    unseen = [batch for _ in range(8) for batch in trainer.loader.next_step()]

    def nats(hessians: dict[str, torch.Tensor]) -> float:
        export(tmp_path / "a", {}, weights, roles(trainer.model.config), recipe, hessians)
        restored = load(tmp_path / "a")[1]
        with holding(trainer.model, restored, trainer.world), torch.no_grad():
            return sum(trainer.model.score(*batch[:2]).mean().item() for batch in unseen) / len(
                unseen
            )

    assert nats(found) < nats({}) - 0.002
