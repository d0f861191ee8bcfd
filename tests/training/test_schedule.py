"""Progress is the clock's share, the learning rate reaches zero with it, QAT follows."""

import pytest

from tests.training.small import small_settings
from training.schedule import moment

CLOCKED = {"wallclock": 100.0, "iterations": 20_000, "warmdown_iters": 200}


def test_learning_rate_falls_over_the_last_steps_worth_of_time():
    settings = small_settings(**CLOCKED)
    at = {elapsed: moment(settings, int(10 * elapsed), elapsed, 0.1) for elapsed in (0, 80, 90, 99)}
    assert at[0].lr_scale == 1.0
    assert at[80].lr_scale == pytest.approx(1.0)
    assert at[90].lr_scale == pytest.approx(0.5)
    assert at[99].lr_scale == pytest.approx(0.05)
    assert moment(settings, 1001, 100.5, 0.1).lr_scale == 0.0


def test_progress_is_the_clocks_share_not_the_step_counts():
    settings = small_settings(**CLOCKED)
    assert moment(settings, 700, 90.0, 0.1).progress == pytest.approx(0.9)


def test_iterations_end_the_run_when_they_run_out_first():
    settings = small_settings(wallclock=0.0, iterations=100, warmdown_iters=20)
    assert moment(settings, 79, 1e9, 0.1).lr_scale == 1.0
    assert moment(settings, 90, 0.0, 0.1).lr_scale == pytest.approx(0.5)
    assert moment(settings, 50, 0.0, 0.1).progress == 0.5


def test_qat_turns_on_in_a_run_that_ends_by_wallclock():
    settings = small_settings(**CLOCKED, late_qat_threshold=0.15)
    assert not moment(settings, 900, 90.0, 0.1).qat
    assert moment(settings, 975, 97.5, 0.1).qat


def test_qat_never_turns_on_at_threshold_zero():
    settings = small_settings(**CLOCKED, late_qat_threshold=0.0)
    assert not moment(settings, 1001, 100.5, 0.1).qat


def test_momentum_warms_up_linearly():
    settings = small_settings(muon_momentum_warmup_start=0.9, muon_momentum=0.98)
    momenta = [moment(settings, step, 0.0, 0.0).momentum for step in (0, 5, 10, 30)]
    assert momenta == pytest.approx([0.9, 0.94, 0.98, 0.98])


def test_reserved_seconds_are_not_for_steps():
    settings = small_settings(wallclock=110.0, iterations=10**6, warmdown_iters=100)
    for elapsed, share in ((90.0, 0.9), (95.0, 0.95)):
        now = moment(settings, int(10 * elapsed), elapsed, 0.1, reserved=10.0)
        assert now.progress == pytest.approx(share)
        assert now.lr_scale == pytest.approx(min(1.0, (100.0 - elapsed) / 10))
