"""Progress is the clock's share, the learning rate reaches zero with it, QAT follows."""

import pytest

from tests.training.small import small_settings
from training.schedule import Schedule

CLOCKED = {"wallclock": 100.0, "iterations": 20_000, "warmdown_iters": 200}


def test_learning_rate_falls_over_the_last_steps_worth_of_time():
    schedule = Schedule.of(small_settings(**CLOCKED))
    at = {elapsed: schedule.at(int(10 * elapsed), elapsed, 0.1) for elapsed in (0, 80, 90, 99)}
    assert at[0].lr_scale == 1.0
    assert at[80].lr_scale == pytest.approx(1.0)
    assert at[90].lr_scale == pytest.approx(0.5)
    assert at[99].lr_scale == pytest.approx(0.05)
    assert schedule.at(1001, 100.5, 0.1).lr_scale == 0.0


def test_progress_is_the_clocks_share_not_the_step_counts():
    schedule = Schedule.of(small_settings(**CLOCKED))
    assert schedule.at(700, 90.0, 0.1).progress == pytest.approx(0.9)


def test_iterations_end_the_run_when_they_run_out_first():
    schedule = Schedule.of(small_settings(wallclock=0.0, iterations=100, warmdown_iters=20))
    assert schedule.at(79, 1e9, 0.1).lr_scale == 1.0
    assert schedule.at(90, 0.0, 0.1).lr_scale == pytest.approx(0.5)
    assert schedule.at(50, 0.0, 0.1).progress == 0.5


def test_qat_turns_on_in_a_run_that_ends_by_wallclock():
    schedule = Schedule.of(small_settings(**CLOCKED, late_qat_threshold=0.15))
    assert not schedule.at(900, 90.0, 0.1).qat
    assert schedule.at(975, 97.5, 0.1).qat


def test_qat_never_turns_on_at_threshold_zero():
    schedule = Schedule.of(small_settings(**CLOCKED, late_qat_threshold=0.0))
    assert not schedule.at(1001, 100.5, 0.1).qat


def test_momentum_warms_up_linearly():
    schedule = Schedule.of(small_settings(muon_momentum_warmup_start=0.9, muon_momentum=0.98))
    momenta = [schedule.at(step, 0.0, 0.0).momentum for step in (0, 5, 10, 30)]
    assert momenta == pytest.approx([0.9, 0.94, 0.98, 0.98])


def test_reserved_seconds_are_not_for_steps():
    schedule = Schedule.of(small_settings(wallclock=110.0, iterations=10**6, warmdown_iters=100))
    for elapsed, share in ((90.0, 0.9), (95.0, 0.95)):
        now = schedule.at(int(10 * elapsed), elapsed, 0.1, reserved=10.0)
        assert now.progress == pytest.approx(share)
        assert now.lr_scale == pytest.approx(min(1.0, (100.0 - elapsed) / 10))
