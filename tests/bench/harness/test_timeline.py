"""A trace's numbers, of a trace made by hand: two whole steps, and the end of one before."""

import pytest

from bench.harness.timeline import Event, added_by, differences, timeline

LEAVING = "Memcpy DtoH (Device -> Pinned)"


def device(name: str, begin: float, end: float) -> Event:
    return Event(name, begin, end, on_device=True)


def host(name: str, begin: float, end: float) -> Event:
    return Event(name, begin, end, on_device=False)


def made_up() -> list[Event]:
    events = []
    for step, start in enumerate((0.0, 100.0, 200.0)):
        events += [
            device("product", start + 3, start + 50),
            device("norm", start + 40, start + 60),  # beside the product
            device("ncclDevKernel_ReduceScatter", start + 55, start + 75),
            device("update", start + 70, start + 90 + step),
            device(LEAVING, start + 93, start + 94),
            host("cudaGraphLaunch", start + 94, start + 95),
            host("cuLaunchKernelEx", start + 95, start + 96),
            host("cudaEventSynchronize", start + 96, start + 96.5),  # of the loader
            host("cudaEventSynchronize", start + 97, start + 177),  # the pace
        ]
    return sorted(events, key=lambda event: event.begin)


def test_gaps_lie_between_a_steps_last_kernel_and_the_next_ones_first():
    assert timeline(made_up()).gaps == pytest.approx([103 - 90, 203 - 191])


def test_numbers_that_leave_beside_the_next_step_mark_the_gap_before_it():
    events = [event for event in made_up() if not event.name.startswith("Memcpy")]
    events += [device(LEAVING, start + 104, start + 105) for start in (0.0, 100.0, 200.0)]
    found = timeline(sorted(events, key=lambda event: event.begin))
    assert found.gaps == pytest.approx([103 - 90, 203 - 191])


def test_a_state_that_leaves_behind_a_steps_numbers_is_no_step():
    plain, copies = timeline(made_up()), []
    for start in (0.0, 100.0, 200.0):  # back to back, for as long as a good part of a step
        copies += [device(LEAVING, start + at, start + at + 15) for at in (95.0, 111.0, 127.0)]
    assert timeline(sorted(made_up() + copies, key=lambda event: event.begin)) == plain


def test_what_runs_beside_something_is_busy_once():
    found = timeline(made_up())
    assert found.step == pytest.approx(100)
    # From 93 to 293, without a hole between a step's first kernel and its last.
    assert found.busy == pytest.approx(((191 - 103) + (292 - 203)) / 2)


def test_launches_and_waits_of_a_step():
    found = timeline(made_up())
    assert (found.launches, found.replays) == (1, 1)
    assert found.blocked == pytest.approx(0.5)  # but for one long wait a step, its pace
    assert found.working == pytest.approx(100 - 80.5)


def test_a_collective_is_hidden_where_another_kernel_runs():
    # Of 20 us, 55 to 60 beside norm and 70 to 75 beside the update.
    found = timeline(made_up())
    assert found.hidden == found.reductions_hidden == pytest.approx(0.5)


def test_a_trace_of_one_step_is_refused():
    with pytest.raises(ValueError, match="1 steps"):
        timeline(made_up()[:9])


def test_what_special_gaps_add():
    added, error = added_by([10, 14, 10, 16, 12], [1, 3])
    assert added == pytest.approx(15 - 32 / 3)
    assert error == pytest.approx((2 / 2 + (4 / 3) / 3) ** 0.5)


def test_differences_of_pairs():
    mean, error = differences([(1.02, 1.0), (2.0, 2.0)])
    assert mean == pytest.approx(0.01)
    assert error == pytest.approx(0.01)
