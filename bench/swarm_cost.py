"""What the swarm costs a run on a GPU: by its trace, by turns with and without it, on the host.

A sprint of 150 s has a cycle every 80 steps. Here they come far more often, so that few steps show
what a cycle costs: a gap between two steps that a cycle comes in is compared with those that have
none, and a copy of the state (``keep``), which runs beside a step, by turns of steps with one and
without one.
"""

import statistics

from bench.decisions import BAR as HOST_US
from bench.decisions import percentiles
from bench.figures import Figure
from bench.rig import Rig
from bench.timeline import added_by, differences, timeline, traced
from swarm.simulate import MadeUp, simulate
from swarm.steering import Steering

SPRINT_SECONDS, EVERY = 150.0, 80
TRACED, OFTEN = 33, 2  # steps in a trace, and between its cycles
TURN, PAIRS = 40, 6  # steps of a turn, one cycle each; turns with and without
KEPT, KEEPING_PAIRS = 10, 5
SAMPLED = 160  # steps, for the host's time
TOTAL_US, SHARE = 300.0, 0.001


def measured(rig: Rig) -> list[Figure]:
    """All of it; bars as figures."""
    by_cycle, error = cycle_gap(rig)
    keeping = keep_cost(rig)
    steps, (ratio, ratio_error) = on_and_off(rig)
    cycles = SPRINT_SECONDS / steps / EVERY
    keeps = keeps_of_a_calm_run(rig.steering(EVERY), round(cycles))
    p50, p99 = percentiles(cycle_times(rig))
    total = cycles * max(0.0, by_cycle) + keeps * max(0.0, keeping)
    return [
        Figure("a cycle makes the gap between steps longer by", by_cycle, "us"),
        Figure("the standard error of that", error, "us"),
        Figure("a copy of the state to return to adds", keeping, "us"),
        Figure("cycles in 150 s", cycles, ""),
        Figure("copies in 150 s, calm", keeps, ""),
        Figure("the swarm over a sprint", total, "us", most=TOTAL_US),
        Figure("step time on / off - 1", ratio, ""),
        # What these turns can tell apart.
        Figure("that less twice its standard error", ratio - 2 * ratio_error, "", most=SHARE),
        Figure("a cycle on the host, p50", p50, "us", most=HOST_US[0]),
        Figure("a cycle on the host, p99", p99, "us", most=HOST_US[1]),
    ]


def cycle_gap(rig: Rig) -> tuple[float, float]:
    """Microseconds that a cycle adds to the gap between two steps, and their standard error."""
    steering, first = rig.steering(OFTEN), rig.step
    gaps = timeline(traced(lambda: rig.run(TRACED, steering))).gaps
    # Gap i lies before step first + 1 + i.
    with_cycle = [i for i in range(len(gaps)) if steering.due(first + 1 + i)]
    return added_by(gaps, with_cycle)


def keep_cost(rig: Rig) -> float:
    """Microseconds that a step takes longer for copying its state beside it."""

    def turn(keep: bool) -> float:
        seconds = 0.0
        for _ in range(KEPT):
            if keep:
                rig.trainer.keep()
            seconds += rig.run(1)
        return seconds / KEPT

    turn(True)  # allocates
    pairs = [(turn(True), turn(False)) for _ in range(KEEPING_PAIRS)]
    return 1e6 * statistics.median(kept - plain for kept, plain in pairs)


def on_and_off(rig: Rig) -> tuple[float, tuple[float, float]]:
    """Seconds of a step without the swarm; ratio less one, with a cycle every ``TURN`` steps."""
    steering = rig.steering(TURN)
    pairs = [(rig.run(TURN, steering), rig.run(TURN)) for _ in range(PAIRS)]
    return statistics.median(off for _, off in pairs) / TURN, differences(pairs)


def keeps_of_a_calm_run(steering: Steering, cycles: int) -> int:
    """How often a run without trouble copies its state."""
    found: list[bool] = []
    made_up = MadeUp("calm")

    def obey(cycle) -> None:
        found.append(cycle.keep)
        made_up.obey(cycle)

    simulate(steering, made_up, obey)
    return sum(found[:cycles])


def cycle_times(rig: Rig) -> list[float]:
    """Microseconds of cycles in a run."""
    steering = rig.steering(OFTEN)
    rig.run(SAMPLED, steering)
    return steering.microseconds
