"""Progress is the clock's share, the learning rate reaches zero with it, QAT follows."""

import pytest

from settings.variants import Variant
from tests.training.small import small_settings
from training.schedule import Schedule, further_weights


def tenth(variant: Variant) -> float:
    """A tenth of a second a step."""
    return 0.1


CLOCKED = {"wallclock": 100.0, "iterations": 20_000, "warmdown_iters": 200}


def test_learning_rate_falls_over_the_last_steps_worth_of_time():
    schedule = Schedule.of(small_settings(**CLOCKED))
    at = {elapsed: schedule.at(int(10 * elapsed), elapsed, tenth) for elapsed in (0, 80, 90, 99)}
    assert at[0].lr_scale == 1.0
    assert at[80].lr_scale == pytest.approx(1.0)
    assert at[90].lr_scale == pytest.approx(0.5)
    assert at[99].lr_scale == pytest.approx(0.05)
    assert schedule.at(1001, 100.5, tenth).lr_scale == 0.0


def test_progress_is_the_clocks_share_not_the_step_counts():
    schedule = Schedule.of(small_settings(**CLOCKED))
    assert schedule.at(700, 90.0, tenth).progress == pytest.approx(0.9)


def test_iterations_end_the_run_when_they_run_out_first():
    schedule = Schedule.of(small_settings(wallclock=0.0, iterations=100, warmdown_iters=20))
    assert schedule.at(79, 1e9, tenth).lr_scale == 1.0
    assert schedule.at(90, 0.0, tenth).lr_scale == pytest.approx(0.5)
    assert schedule.at(50, 0.0, tenth).progress == 0.5


def test_qat_turns_on_in_a_run_that_ends_by_wallclock():
    schedule = Schedule.of(small_settings(**CLOCKED, late_qat_threshold=0.15))
    assert not schedule.at(900, 90.0, tenth).qat
    assert schedule.at(975, 97.5, tenth).qat


def test_qat_never_turns_on_at_threshold_zero():
    schedule = Schedule.of(small_settings(**CLOCKED, late_qat_threshold=0.0))
    assert not schedule.at(1001, 100.5, tenth).qat


def test_weights_look_ahead_in_their_part_of_the_run_as_far_as_the_rates():
    lean = {"lean": 0.6, "lean_from": 0.25, "lean_until": 0.875}
    schedule = Schedule.of(small_settings(**CLOCKED, **lean))
    expected = {20.0: 0.0, 25.0: 0.6, 80.0: 0.6, 85.0: 0.45, 87.5: 0.0}
    for elapsed, steps in expected.items():
        assert schedule.at(int(10 * elapsed), elapsed, tenth).lean == pytest.approx(steps)


def test_rates_stop_falling_at_their_floor_and_qat_does_not_notice():
    changes = {**CLOCKED, "late_qat_threshold": 0.15}
    plain, floored = (Schedule.of(small_settings(**changes, min_lr=x)) for x in (0.0, 0.2))
    for elapsed in (10.0, 81.0, 90.0, 95.0, 97.5, 100.5):
        free, now = (each.at(int(10 * elapsed), elapsed, tenth) for each in (plain, floored))
        assert now.lr_scale == max(0.2, free.lr_scale)
        assert (now.warmdown, now.qat) == (free.lr_scale, free.qat)
    assert now.qat


def test_momentum_warms_up_linearly():
    schedule = Schedule.of(small_settings(muon_momentum_warmup_start=0.9, muon_momentum=0.98))
    momenta = [schedule.at(step, 0.0, lambda _: 0.0).momentum for step in (0, 5, 10, 30)]
    assert momenta == pytest.approx([0.9, 0.94, 0.98, 0.98])


def test_momentum_falls_in_its_cooldown_from_wherever_it_is():
    changes = {"muon_momentum_warmup_start": 0.9, "muon_momentum": 0.98, "iterations": 100}
    changes |= {"muon_cooldown_share": 0.2, "muon_cooldown_end": 0.8}
    for warmup, at_start in ((10, 0.98), (160, 0.94)):
        settings = small_settings(**changes, muon_momentum_warmup_steps=warmup)
        momenta = [Schedule.of(settings).at(s, 0.0, tenth).momentum for s in (80, 90, 100)]
        at_half = 0.945 if warmup == 160 else 0.98
        assert momenta == pytest.approx([at_start, 0.8 + (at_half - 0.8) / 2, 0.8])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, [(), (), ()]),
        (1, [(0.5,), (0.25,), (0.0,)]),
        (2, [(0.5, 0.25), (0.5, 0.0625), (0.125, 0.0)]),
    ],
)
def test_further_targets_lose_their_weights_in_turn(count: int, expected: list[tuple]):
    moments = {0: (0.0, 0.0, 0.0), 1: (0.0, 0.25, 0.9), 2: (0.0, 0.25, 7 / 12)}[count]
    for progress, weights in zip(moments, expected, strict=True):
        assert further_weights(count, progress) == pytest.approx(weights)
    assert further_weights(count, 1.0) == (0.0,) * count


def test_reserved_seconds_are_not_for_steps():
    schedule = Schedule.of(small_settings(wallclock=110.0, iterations=10**6, warmdown_iters=100))
    for elapsed, share in ((90.0, 0.9), (95.0, 0.95)):
        now = schedule.at(int(10 * elapsed), elapsed, tenth, reserved=10.0)
        assert now.progress == pytest.approx(share)
        assert now.lr_scale == pytest.approx(min(1.0, (100.0 - elapsed) / 10))


STAGES = [{"until": 0.5, "train_batch_tokens": 96}, {"until": 1.0}]


def test_the_stage_follows_from_the_progress():
    schedule = Schedule.of(small_settings(**CLOCKED, stages=STAGES))
    first, last = schedule.variant(0.0), schedule.variant(1.0)
    assert (first.batch_tokens, last.batch_tokens) == (96, 192)
    assert schedule.variant(0.499) == first
    assert schedule.variant(0.5) == last


def test_a_stage_scales_the_rates_and_agents_do_not_see_it():
    """A batch of half the tokens has 0.7 of the rate; the floor is of the whole rate."""
    stages = [{**STAGES[0], "lr_factor": 0.7}, STAGES[1]]
    schedule = Schedule.of(small_settings(**CLOCKED, stages=stages, min_lr=0.1))
    at = {x: schedule.at(int(10 * x), x, tenth) for x in (0.0, 49.0, 50.0, 90.0, 100.0)}
    assert [now.lr_scale for now in at.values()] == pytest.approx([0.7, 0.7, 1.0, 0.5, 0.1])
    assert [now.warmdown for now in at.values()] == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.0])


def test_warmdown_steps_last_as_long_as_those_of_the_stages_they_are_in():
    schedule = Schedule.of(small_settings(**CLOCKED, stages=STAGES))
    first, last = (variant for _, variant in schedule.stages)
    pace = {first: 0.1, last: 0.2}.__getitem__
    # 200 steps of 0.2 s are in the second stage, which has 250.
    assert schedule.at(700, 59.0, pace).lr_scale == 1.0
    assert schedule.at(700, 80.0, pace).lr_scale == pytest.approx(0.5)
    # 250 of 300 are in the second stage, and 50 of 0.1 s in the first.
    assert schedule.seconds_of_last(300, 100.0, pace) == pytest.approx(55.0)
    # More than there are: the pace of the first stage holds beyond.
    assert schedule.seconds_of_last(1000, 100.0, pace) == pytest.approx(50 + 75)


def test_shares_take_the_place_of_steps():
    shares = {"warmdown_share": 0.4, "muon_momentum_warmup_share": 0.1}
    changes = {"muon_momentum_warmup_start": 0.9, "muon_momentum": 0.98, **shares}
    clocked = Schedule.of(small_settings(**{**CLOCKED, **changes}))
    counted = Schedule.of(small_settings(wallclock=0.0, iterations=1000, **changes))
    for percent, scale, momentum in ((0, 1, 0.9), (5, 1, 0.94), (60, 1, 0.98), (90, 0.25, 0.98)):
        for now in (clocked.at(0, percent, tenth), counted.at(10 * percent, 1e9, tenth)):
            assert now.lr_scale == pytest.approx(scale)
            assert now.momentum == pytest.approx(momentum)
    assert clocked.at(0, 101.0, tenth).lr_scale == 0.0
