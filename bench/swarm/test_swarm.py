"""The host time of a decision cycle: five agents, from telemetry to levers.

The cost is a ratio to a fixed piece of Python of the same kind (named tuples, method calls, small
dictionaries). Both run in turn in one process and are timed by the thread's clock, so a slow or
busy machine slows both. ``--save bench/results`` writes a new baseline.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from bench.harness.bar import Result
from bench.harness.baseline import COMMITTED, baseline_name, losses, save
from bench.harness.record import provenance
from settings.load import load_settings
from swarm.simulate import SyntheticRun, simulate
from swarm.steering import Steering
from swarm.telemetry import Snapshot, Telemetry

ROUNDS, FRESH = 100, 9
TRIES = 2  # noise passes, a regression stays
PLAIN = "plain Python"
DEVICE = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"


def steering() -> Steering:
    """Return all five agents."""
    made = Steering.of(load_settings(["--preset", "seed", "--kg-scores", "wordnet"], {}))
    assert made is not None
    assert len(made.mesh.agents) == 5
    return made


def snapshots() -> list[Snapshot]:
    """Return the snapshots of a calm run, a spike and a divergence."""
    seen: list[Snapshot] = []
    for kind in ("calm", "spike", "divergence"):
        made_up = SyntheticRun(kind)

        def obey(cycle, made_up=made_up) -> None:
            seen.append(cycle.snapshot)
            made_up.obey(cycle)

        simulate(steering(), made_up, obey)
    return seen


def cycles(swarm: Steering, seen: list[Snapshot]) -> Callable[[], object]:
    """Return a call that closes a window for each snapshot and decides on it."""
    telemetry, mesh = Telemetry(swarm.reads), swarm.mesh

    def call() -> None:
        for snapshot in seen:
            telemetry.add(snapshot.signals["loss"], snapshot.signals["gradient_peak"])
            telemetry.snapshot(snapshot.step, snapshot.progress, 1.0, None, snapshot.levers)
            mesh.cycle(snapshot)

    return call


class Wish(NamedTuple):
    who: int
    what: str
    value: float


class Clerk:
    """Does what agents do, without meaning."""

    def __init__(self, number: int) -> None:
        self.number = number

    def propose(self, state: tuple, value: float) -> tuple[tuple, tuple[Wish, ...]]:
        if value < 0.9:
            return state, ()
        return state, (Wish(self.number, "lever", max(value, 0.5)),)

    def vote(self, state: tuple, wish: Wish) -> float:
        return 0.5 if wish.value > self.number else 0.0


def plain(calls: int) -> Callable[[], object]:
    """Return a call of the fixed piece. Never change it, or every baseline is void."""
    clerks = [Clerk(number) for number in range(5)]

    def call() -> None:
        for number in range(calls):
            for_it: dict[str, float] = {}
            wishes: list[Wish] = []
            for clerk in clerks:
                _, found = clerk.propose((), number % 20 / 20)
                if found:
                    wishes.extend(found)
            for wish in wishes:
                votes = [clerk.vote((), wish) for clerk in clerks]
                for_it[wish.what] = max(sum(votes), for_it.get(wish.what, 0.0))

    return call


def measure(seen: list[Snapshot]) -> Result:
    """Return the thread seconds of a cycle and of the fixed piece.

    The lower decile of the rounds counts, because other processes slow some rounds, and code that
    waits for memory more. Objects are fresh and the median counts, because their addresses make 2
    %.
    """
    found = [alone(seen) for _ in range(FRESH)]
    ours = statistics.median(seconds for seconds, _ in found)
    return Result(
        "swarm, cycle", ours, 0.0, 0.0, 0.0, {PLAIN: ours * statistics.median(r for _, r in found)}
    )


def alone(seen: list[Snapshot]) -> tuple[float, float]:
    """Return the seconds of a cycle, their ratio to the fixed piece's, and its new objects."""
    calls = (cycles(steering(), seen), plain(len(seen)))
    times: tuple[list[float], ...] = ([], [])
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for call, taken in zip(calls, times, strict=True):
                began = time.thread_time()
                call()
                taken.append(time.thread_time() - began)
    finally:
        gc.enable()
    ours, theirs = (statistics.quantiles(taken, n=10)[0] for taken in times)
    return ours / len(seen), theirs / ours


def test_swarm_cycle(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where the ratio is 5 % behind the baseline of this kind of Python."""
    seen, path = snapshots(), COMMITTED / baseline_name(DEVICE)
    folder = request.config.getoption("--save")
    result = measure(seen)
    if folder is not None:
        about = provenance(request.config.getoption("--commit"))
        path = folder / path.name
        save(path, [result], about | {"device": DEVICE, "cpu": about["device"]})
    if not path.exists():
        pytest.skip(f"no baseline {path.name} to compare with; --save bench/results writes one")
    for _ in range(TRIES - 1):
        if not losses(path, [result], DEVICE):
            break
        result = measure(seen)
    with capsys.disabled():
        print(
            f"\n{1e6 * result.seconds:.2f} us a cycle, {1 / result.ratios[PLAIN]:.2f} times {PLAIN}"
        )
    assert not losses(path, [result], DEVICE)
