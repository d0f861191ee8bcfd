"""Measure what the swarm costs a run on a GPU: in a trace, with and without it, on the host.

A sprint of 150 s has a cycle every 80 steps. Here cycles are far more frequent, so that few steps
show their cost. Gaps between steps with a cycle are compared with the other gaps, and steps during
which the state is copied (``keep``) with their neighbours.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar
from unittest import mock

import torch
from torch import Tensor

from bench.harness.figures import Figure
from bench.harness.rig import Rig
from bench.harness.timeline import added_by, differences, timeline, traced
from bench.swarm.decisions import BAR as HOST_US
from bench.swarm.decisions import percentiles
from swarm.agents.base import SURE, Agent, Proposal
from swarm.levers import KEEP, limits, start_values
from swarm.mesh import Mesh
from swarm.simulate import SyntheticRun, simulate
from swarm.steering import Steering
from swarm.telemetry import Snapshot

SPRINT_SECONDS, EVERY = 150.0, 80
TRACED, OFTEN = 33, 2  # steps in a trace, and between its cycles
TURN, PAIRS = 40, 6  # steps of a turn, one cycle each; turns with and without
KEEPING = 160  # steps, every second one with copies during it:
COPIES = 4  # one alone costs a step less than steps differ by
SAMPLED = 200  # cycles, for the host's time
TOTAL_US, SHARE = 300.0, 0.001
# Standard error of a median of n over the median deviation / sqrt(n), for a normal distribution.
ERROR_OF_MEDIAN = 1.858


class Keeper(Agent):
    """Proposes a copy of the state in every cycle."""

    name: ClassVar[str] = "keeper"
    levers: ClassVar[tuple[str, ...]] = (KEEP,)

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        return state, (Proposal(self.name, KEEP, 1.0, SURE, "measured"),)


def measured(rig: Rig) -> list[Figure]:
    """Measure all of it."""
    by_cycle, error = cycle_gap(rig)
    keeping, keeping_error = keep_cost(rig)
    steps, (ratio, ratio_error) = on_and_off(rig)
    cycles = SPRINT_SECONDS / steps / EVERY
    keeps = keeps_of_a_calm_run(rig.steering(EVERY), round(cycles))
    p50, p99 = percentiles(cycle_times(rig))
    total = cycles * max(0.0, by_cycle) + keeps * max(0.0, keeping)
    return [
        Figure("a cycle makes the gap between steps longer by", by_cycle, "us"),
        Figure("the standard error of that", error, "us"),
        Figure("a copy of the state to return to adds", keeping, "us"),
        Figure("the standard error of that", keeping_error, "us"),
        Figure("cycles in 150 s", cycles, ""),
        Figure("copies in 150 s, calm", keeps, ""),
        Figure("the swarm over a sprint", total, "us", most=TOTAL_US),
        Figure("step time on / off - 1", ratio, ""),
        # The least difference that these turns can show.
        Figure("that less twice its standard error", ratio - 2 * ratio_error, "", most=SHARE),
        Figure("a cycle on the host, p50", p50, "us", most=HOST_US[0]),
        Figure("a cycle on the host, p99", p99, "us", most=HOST_US[1]),
    ]


def cycle_gap(rig: Rig) -> tuple[float, float]:
    """Return the microseconds that a cycle adds between two steps, and their standard error."""
    steering, first = rig.steering(OFTEN), rig.step
    gaps = timeline(traced(lambda: rig.run(TRACED, steering))).gaps
    # Gap i lies before step first + 1 + i.
    with_cycle = [i for i in range(len(gaps)) if steering.due(first + 1 + i)]
    return added_by(gaps, with_cycle)


def keep_cost(rig: Rig) -> tuple[float, float]:
    """Return the microseconds that a copy of the state adds to its step, and their standard error.

    Neighbouring steps are compared, because a device's clock may drift by more. Their median
    counts, because some steps take half a millisecond longer whatever else runs.
    """
    settings, first = rig.settings, rig.step
    steering = Steering(Mesh([Keeper()], limits(settings)), start_values(settings), OFTEN)
    snapshots, take = rig.trainer.snapshots, rig.trainer.snapshots.take

    def take_often() -> None:
        for _ in range(COPIES):
            take()

    with mock.patch.object(snapshots, "take", take_often):
        times = step_times(rig, KEEPING + 1, steering)
    # Time i is of step first + 1 + i.
    kept = [time for i, time in enumerate(times) if steering.due(first + 1 + i)]
    plain = [time for i, time in enumerate(times) if not steering.due(first + 1 + i)]
    longer = [with_copy - without for with_copy, without in zip(kept, plain, strict=True)]
    middle = statistics.median(longer)
    spread = statistics.median(abs(each - middle) for each in longer)
    error = ERROR_OF_MEDIAN * spread / math.sqrt(len(longer))
    return middle / COPIES, error / COPIES


def step_times(rig: Rig, steps: int, steering: Steering) -> list[float]:
    """Return the microseconds between the ends of steps, by the device's clock.

    The host is a step ahead, so its work does not count.
    """
    ends: list[torch.cuda.Event] = []
    take = rig.trainer.step

    def timed(*arguments) -> Tensor:
        numbers = take(*arguments)
        ends.append(torch.cuda.Event(enable_timing=True))
        ends[-1].record()
        return numbers

    with mock.patch.object(rig.trainer, "step", timed):
        rig.run(steps, steering)
    return [1000 * end.elapsed_time(following) for end, following in pairwise(ends)]


def on_and_off(rig: Rig) -> tuple[float, tuple[float, float]]:
    """Return seconds of a step without the swarm; ratio less one with a cycle every ``TURN``."""
    steering = rig.steering(TURN)
    pairs = [(rig.run(TURN, steering), rig.run(TURN)) for _ in range(PAIRS)]
    return statistics.median(off for _, off in pairs) / TURN, differences(pairs)


def keeps_of_a_calm_run(steering: Steering, cycles: int) -> int:
    """Return how often a run without trouble copies its state."""
    found: list[bool] = []
    made_up = SyntheticRun("calm")

    def obey(cycle) -> None:
        found.append(cycle.keep)
        made_up.obey(cycle)

    simulate(steering, made_up, obey)
    return sum(found[:cycles])


def cycle_times(rig: Rig) -> list[float]:
    """Return the microseconds of a run's cycles: more than 100, so that p99 is not the slowest."""
    steering = rig.steering(1)
    rig.run(SAMPLED, steering)
    return steering.microseconds
