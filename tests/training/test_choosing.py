"""Which weights a run exports: after a calm, a short and a diverged run."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from errors import InputError
from model.parameters import exported
from runtime import checkpoint
from training.averaging import decay_at
from training.choosing import Chooser, Course
from training.schedule import Moment
from training.trainer import Trainer

STEADY = Moment(progress=0.5, lr_scale=1.0, momentum=0.9, qat=False)
CALM = {"recent": [3.0] * 10, "lowest": 3.0, "first": 4.0}
DOUBT = {"recent": [9.0] * 10, "lowest": 3.0, "first": 4.0}


def stepped(trainer: Trainer, steps: int) -> Trainer:
    for step in range(steps):
        trainer.step(step, STEADY)
    return trainer


def spoil(trainer: Trainer, value: float) -> None:
    """Let the live weights and their averages be those of a run that diverged."""
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(value)
    trainer.averaging.restart()


def test_the_window_of_an_average_is_a_share_of_the_steps_so_far():
    """17, 3: after 160 steps the random start was 62 % of the average."""
    assert [decay_at(0.997, step) for step in (1, 5, 10, 100)] == [0.0, 0.0, 0.5, 0.95]
    assert decay_at(0.997, 1_667) == decay_at(0.997, 10_000) == 0.997
    start, share = 1.0, 1.0
    for step in range(1, 161):
        start *= decay_at(0.997, step)
        share *= 0.997
    assert start == 0.0 and share > 0.6


def test_a_step_moves_the_average_by_the_decay_of_its_number(make_trainer):
    trainer = make_trainer(ema_decay=0.997)
    expected = {name: w.detach().clone() for name, w in exported(trainer.model).items()}
    for step in range(12):
        trainer.step(step, STEADY)
        for name, weight in exported(trainer.model).items():
            expected[name].lerp_(weight.detach(), 1 - decay_at(0.997, step + 1))
    for name, average in trainer.averaging.weights().items():
        torch.testing.assert_close(average, expected[name])


def test_a_calm_long_run_compares_nothing(make_trainer, monkeypatch):
    trainer = stepped(make_trainer(ema_decay=0.5), 12)
    assert Chooser(trainer).unsure(12) and not trainer.averaging.young(12)
    monkeypatch.setattr(Chooser, "unsure", lambda self, step: trainer.averaging.young(step))
    monkeypatch.setattr(Chooser, "loss", None)
    averaged = trainer.averaging.weights()
    choice = Chooser(trainer).choose(12, averaged, Course(CALM), None)
    assert choice.name == "averaged" and choice.weights is averaged and not choice.diverged
    assert Chooser(trainer).choose(12, {}, Course(CALM), None).name == "raw"


def test_a_gpu_does_not_compare_on_text_that_it_has_seen(make_trainer, monkeypatch):
    """A young average lost 0.021 on unseen text to raw weights, which knew the compared text."""
    trainer = stepped(make_trainer(ema_decay=0.99), 1)
    monkeypatch.setattr(trainer, "world", SimpleNamespace(device=torch.device("cuda")))
    chooser = Chooser(trainer)
    assert chooser.unsure(1) and not trainer.loader.repeats
    trainer.loader.position = 10**9
    assert trainer.averaging.young(1) and not chooser.unsure(1)
    monkeypatch.setattr(trainer, "held_out", SimpleNamespace())
    assert chooser.unsure(1)


def test_a_short_run_exports_the_better_of_two_and_leaves_no_trace(make_trainer):
    trainer = stepped(make_trainer(ema_decay=0.99), 30)
    live = {name: w.detach().clone() for name, w in exported(trainer.model).items()}
    position, averaged = trainer.loader.position, trainer.averaging.weights()
    worse = {name: torch.zeros_like(weight) for name, weight in averaged.items()}
    chooser = Chooser(trainer)
    chooser.rehearse()
    assert chooser.reserved > 0
    choice = chooser.choose(30, worse, Course(CALM), None)
    assert choice.name == "raw" and not choice.weights and not choice.diverged
    assert choice.losses["averaged"] == pytest.approx(math.log(64), abs=0.1)
    assert choice.losses["raw"] < choice.losses["averaged"] - 0.3
    spoil(trainer, 0.0)
    assert chooser.choose(30, live, Course(CALM), None).name == "averaged"
    assert trainer.loader.position == position


def test_the_comparison_is_on_the_batch_that_training_would_take_next(make_trainer):
    trainer, twin = (stepped(make_trainer(), 3) for _ in range(2))
    loss = Chooser(trainer).loss({})
    tokens, targets, *_ = twin.loader.next_step()[0]
    assert loss == twin.model.score(tokens, targets).mean().item()
    assert torch.equal(trainer.loader.next_step()[0].tokens, tokens)


@pytest.mark.parametrize("value", [math.nan, 30.0])
def test_a_run_that_diverged_exports_what_the_swarm_kept(make_trainer, value):
    """F11: the artifact was of the diverged end, though a good state was in memory."""
    trainer = stepped(make_trainer(), 12)
    trainer.snapshots.take()
    good = {name: w.detach().clone() for name, w in exported(trainer.model).items()}
    spoil(trainer, value)
    averaged = trainer.averaging.weights()
    choice = Chooser(trainer).choose(99, averaged, Course(DOUBT), None)
    assert choice.name == "kept" and choice.diverged
    assert all(torch.equal(choice.weights[name], weight) for name, weight in good.items())


def test_without_the_swarm_the_last_sound_checkpoint_is_exported(make_trainer, tmp_path: Path):
    trainer = make_trainer()
    for step in (6, 12, 18):
        if step == 18:
            spoil(trainer, math.nan)
        else:
            stepped(trainer, 6)
        checkpoint.save(tmp_path, step, trainer.state.tensors(), {}, keep=3)
    choice = Chooser(trainer).choose(18, trainer.averaging.weights(), Course(DOUBT), tmp_path)
    assert choice.name == "step_000012" and choice.diverged
    assert math.isnan(choice.losses["step_000018"]) and "step_000006" not in choice.losses


def test_where_nothing_is_finite_one_line_says_so(make_trainer):
    trainer = stepped(make_trainer(), 3)
    spoil(trainer, math.nan)
    course = Course({})
    for step in range(60):
        course.add(math.nan, step)
    with pytest.raises(InputError, match="59 of 60 steps were skipped, and no finite weights"):
        Chooser(trainer).choose(60, trainer.averaging.weights(), course, None)


def test_a_noisy_end_is_no_divergence(make_trainer):
    trainer = stepped(make_trainer(), 12)
    trainer.snapshots.take()
    stepped(trainer, 12)
    choice = Chooser(trainer).choose(24, trainer.averaging.weights(), Course(DOUBT), None)
    assert choice.name in ("raw", "averaged") and not choice.diverged


def test_the_course_doubts_a_rise_a_loss_that_is_none_and_a_rollback():
    course = Course({})
    for loss in [4.0] * 5 + [3.0] * 20:
        course.add(loss, 0)
    assert not course.in_doubt
    again = Course(json.loads(json.dumps(course.state())))
    assert again.state() == course.state()
    again.rollbacks += 1
    assert again.in_doubt
    course.add(math.nan, 1)
    assert course.in_doubt
    for _ in range(10):
        course.add(3.3, 1)
    assert not course.in_doubt
    for _ in range(10):
        course.add(3.6, 1)
    assert course.in_doubt
