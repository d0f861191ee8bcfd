"""Telemetry: windows add up, what is not finite is counted and enters nothing else."""

import math
import statistics

import pytest

from swarm.telemetry import SIGNALS, Snapshot, Telemetry


def make() -> Telemetry:
    """A telemetry of which every signal is read."""
    return Telemetry(signal.name for signal in SIGNALS)


def window(telemetry: Telemetry, losses, norms=None, qat=0.0) -> Snapshot:
    for place, loss in enumerate(losses):
        telemetry.add(loss, norms[place] if norms else 0.3)
    return telemetry.snapshot(80, 0.5, 1.0, None, {"qat": qat})


def test_a_window_is_summed_up():
    telemetry = make()
    losses = [3.0, 3.2, 2.9, 3.1]
    seen = window(telemetry, losses, [0.3, 0.5, 0.2, 0.4])
    assert seen.signals["loss"] == pytest.approx(3.05)
    assert seen.signals["noise"] == pytest.approx(statistics.stdev(losses) / math.sqrt(4))
    assert seen.signals["gradient_norm"] == pytest.approx(0.35)
    assert seen.signals["gradient_peak"] == 0.5
    assert (seen.arrived, seen.nonfinite, seen.signals["velocity"]) == (4, 0, 0.0)


def test_velocity_is_the_change_a_step_since_the_window_before():
    telemetry = make()
    window(telemetry, [3.0, 3.0])
    seen = window(telemetry, [2.8, 2.6, math.nan, 2.8, 2.6])
    assert seen.signals["loss"] == pytest.approx(2.7)
    assert seen.signals["velocity"] == pytest.approx(-0.3 / 5)  # the lost step took its time, too


def test_noise_keeps_its_digits_on_a_large_loss():
    telemetry = make()
    window(telemetry, [1e6, 1e6])
    seen = window(telemetry, [1e6 + 1e-3, 1e6 - 1e-3])
    assert seen.signals["noise"] == pytest.approx(1e-3, rel=1e-3)


def test_steps_that_are_not_finite_are_counted_and_enter_no_mean():
    telemetry = make()
    losses = [2.0, math.nan, 2.2, 2.1, -math.inf]
    seen = window(telemetry, losses, [0.3, 0.3, math.inf, 0.5, 0.1])
    assert (seen.arrived, seen.nonfinite) == (5, 3)
    assert seen.signals["loss"] == pytest.approx(2.05)
    assert seen.signals["gradient_peak"] == 0.5


def test_a_window_without_a_finite_step_shows_the_last_that_had_one():
    telemetry = make()
    before = window(telemetry, [2.0, 2.2], [0.3, 0.5])
    seen = window(telemetry, [math.nan, math.inf])
    assert (seen.arrived, seen.nonfinite, seen.signals["velocity"]) == (2, 2, 0.0)
    assert (seen.signals["loss"], seen.signals["gradient_norm"]) == (
        before.signals["loss"],
        before.signals["gradient_norm"],
    )
    assert seen.signals["gradient_peak"] == before.signals["gradient_norm"]


@pytest.mark.parametrize("losses", [[], [math.nan]])
def test_before_any_finite_step_all_is_finite_and_the_first_is_no_fall(losses):
    telemetry = make()
    assert window(telemetry, losses).signals["loss"] == 0.0
    seen = window(telemetry, [6.0])
    assert (seen.signals["velocity"], seen.signals["lowest"]) == (0.0, 6.0)


def test_the_lowest_loss_begins_anew_when_qat_switches():
    telemetry = make()
    assert window(telemetry, [2.0]).signals["lowest"] == 2.0
    assert window(telemetry, [2.3]).signals["lowest"] == 2.0
    assert window(telemetry, [1.9]).signals["lowest"] == pytest.approx(1.9)
    switched = window(telemetry, [2.2], qat=1.0)
    assert (switched.signals["lowest"], switched.signals["velocity"]) == (pytest.approx(2.2), 0.0)
    assert window(telemetry, [2.1], qat=1.0).signals["lowest"] == pytest.approx(2.1)


def test_the_int6_error_stays_until_the_next_is_measured():
    telemetry = make()
    telemetry.add(2.0, 0.3, {"int6_error": 0.04})
    telemetry.add(2.0, 0.3, {"int6_error": math.nan})
    telemetry.add(2.0, 0.3)
    assert window(telemetry, []).signals["int6_error"] == 0.04
    assert window(telemetry, [2.0]).signals["int6_error"] == 0.04


def test_state_holds_the_open_window():
    one = make()
    window(one, [2.0, 2.1])
    one.add(2.3, 0.7)
    other = make()
    other.load(one.state())
    assert window(other, [1.8]) == window(one, [1.8])


def test_what_is_noted_holds_until_the_next_note_and_over_a_resumption():
    telemetry = Telemetry(["bar", "step_ms"])
    assert window(telemetry, [2.0]).signals == {"bar": None, "step_ms": None}
    telemetry.note(bar=3.5, step_ms=[58.0, 40.0], bar_error=0.1)
    for losses in ([2.0], [], [math.nan]):
        assert window(telemetry, losses).signals == {"bar": 3.5, "step_ms": [58.0, 40.0]}
    other = Telemetry(["bar", "step_ms", "bar_step"])
    other.load(telemetry.state())
    other.note(bar=3.25)
    seen = window(other, [2.0]).signals
    assert seen == {"bar": 3.25, "step_ms": [58.0, 40.0], "bar_step": None}
