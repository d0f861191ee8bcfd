"""Measure host time of the swarm's decision cycles, warm and cold.

Five agents steer synthetic runs of each kind. A cycle's time is the decision log's, from telemetry
to decision. A training loop evicts the agents from the caches, so some MB are read before each
cycle. The exit code is 1 if warm cycles are above the target.
"""

import os
import statistics
from collections.abc import Sequence

import numpy as np

from bench.harness.record import Commit, as_lines, provenance
from settings.load import load_settings
from swarm.mesh import Cycle
from swarm.simulate import KINDS, SyntheticRun, simulate
from swarm.steering import Steering

RUNS = 8  # of each kind
READ = (0, 4, 64)  # MB
BAR = (30.0, 60.0)  # microseconds, p50 and p99


def main(*, commit: Commit = None) -> int:
    """Measure each amount, print the table."""
    print(as_lines(provenance(commit)))
    cores, busy = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"cores: {cores}, load: {busy:.1f}\n")
    print(f"| MB read before | cycles | p50 us ({BAR[0]:g}) | p99 us ({BAR[1]:g}) |")
    print("|---|---|---|---|")
    found = []
    for megabytes in READ:
        runs = [cycles(kind, seed, megabytes) for seed in range(RUNS) for kind in KINDS]
        taken = [microseconds for run in runs for microseconds in run]
        found.append(percentiles(taken))
        median, last = found[-1]
        print(f"| {megabytes} | {len(taken)} | {median:.1f} | {last:.1f} |", flush=True)
    return int(any(us > most for us, most in zip(found[0], BAR, strict=True)))


def cycles(kind: str, seed: int, megabytes: int) -> list[float]:
    """Return microseconds of each cycle of a synthetic run."""
    steering = Steering.of(load_settings(["--preset", "seed", "--kg-scores", "wordnet"], {}))
    assert steering is not None
    made_up, filler = SyntheticRun(kind, seed), np.ones(megabytes * 2**20, dtype=np.uint8)

    def obey(cycle: Cycle) -> None:
        made_up.obey(cycle)
        filler.max(initial=0)

    simulate(steering, made_up, obey)
    return steering.microseconds


def percentiles(taken: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p99."""
    shares = statistics.quantiles(taken, n=100, method="inclusive")
    return shares[49], shares[98]
