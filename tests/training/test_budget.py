"""The budget ends at the last step that fits, with and without steps in flight."""

import time

import pytest

from settings.variants import Variant
from tests.training.small import small_settings
from training.budget import Budget
from training.pace import Pace
from training.schedule import Schedule

VARIANT = Variant(4096, 256)


@pytest.mark.parametrize("pending", [0, 1])
@pytest.mark.parametrize("step_seconds", [0.3, 0.7, 1.0])
def test_ends_at_the_last_step_that_fits(step_seconds, pending):
    budget = Budget(seconds=10.0, iterations=10_000)
    step, pace = 0, Pace()
    while True:
        # The host launches a step when all but `pending` of those before are done.
        elapsed = max(0, step - pending) * step_seconds
        pace.finished(min(step, pending), elapsed)
        if not budget.fits(step, elapsed, pace.ahead() + pace.of(VARIANT)):
            break
        pace.launched(VARIANT)
        step += 1
    assert step * step_seconds <= 10.0 + 1e-9
    assert (step + 1) * step_seconds > 10.0


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_last_step_that_fits_is_of_the_slower_stage(ahead):
    stages = [{"until": 0.35, "train_batch_tokens": 96}, {"until": 1.0}]
    schedule = Schedule.of(small_settings(wallclock=10.0, iterations=10_000, stages=stages))
    seconds = dict(zip((variant for _, variant in schedule.stages), (0.05, 0.4), strict=True))
    budget, pace = Budget(seconds=10.0, iterations=10_000), Pace()
    ends = [0.0]  # of each step that was launched
    while True:
        pending = min(len(ends) - 1, ahead)
        elapsed = ends[-1 - pending]
        pace.finished(pending, elapsed)
        now = schedule.at(len(ends) - 1, elapsed + pace.ahead(), pace.of)
        variant = schedule.variant(now.progress)
        if not budget.fits(len(ends) - 1, elapsed, pace.ahead() + pace.of(variant)):
            break
        pace.launched(variant)
        ends.append(ends[-1] + seconds[variant])
    assert ends[-1] <= 10.0 + 1e-9 < ends[-1] + 0.4
    assert now.lr_scale <= 1.0
    first = sum(end <= 3.5 + 0.05 for end in ends) - 1
    assert 70 <= first <= 72
    assert len(ends) - 1 - first == int((10.0 - ends[first]) / 0.4)


def test_iterations_are_a_limit_too_and_no_seconds_means_no_limit():
    assert Budget(0.0, 5).fits(4, 1e9, 0)
    assert not Budget(0.0, 5).fits(5, 0.0, 0)
    assert not Budget(100.0, 5).fits(5, 0.0, 0)


def test_paused_time_does_not_count_and_earlier_time_does():
    budget = Budget(100.0, 10, elapsed=5.0)
    budget.start()
    with budget.paused():
        time.sleep(0.2)
    time.sleep(0.05)
    budget.stop()
    spent = budget.elapsed()
    time.sleep(0.05)
    assert budget.elapsed() == spent
    assert 5.05 <= spent < 5.2


def test_steps_leave_what_is_reserved():
    budget = Budget(10.0, 100, reserved=4.0)
    assert budget.fits(5, 5.0, 1.0)
    assert not budget.fits(6, 6.0, 1.0)
