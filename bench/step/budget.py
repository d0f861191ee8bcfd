"""Measure how near runs end to their budget.

Each run is a separate loop over steps of preset ``sprint``, timed from its start until the device
is done. The exit code is 1 if a run ends more than a step before or after its budget.
"""

import tempfile
import time
from pathlib import Path

import torch

from bench.harness.figures import Figure, figures_table
from bench.harness.record import Commit, as_lines, provenance
from bench.harness.rig import Rig
from runtime.ranks import World

SETTLING = 10  # steps


def main(*settings: str, runs: int = 20, seconds: float = 10.0, commit: Commit = None) -> int:
    """Make the runs, print the table.

    Args:
        settings: over preset sprint, after --
        seconds: the budget of each run
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), World.single(device), settings)
        step = rig.run(SETTLING) / SETTLING
        ends = [timed(rig, seconds) - seconds for _ in range(runs)]
        rig.close()
    print(as_lines(provenance(commit)))
    found = figures(ends, step, seconds)
    print(figures_table(found))
    return int(any(not figure.met for figure in found))


def timed(rig: Rig, seconds: float) -> float:
    """Return the seconds that a run with a budget takes."""
    began = time.perf_counter()
    rig.run_out(seconds)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def figures(ends: list[float], step: float, seconds: float) -> list[Figure]:
    """Return figures of the ends of runs, in seconds after their budget."""
    return [
        Figure(f"runs of {seconds:g} s", len(ends), ""),
        Figure("step", 1e3 * step, "ms"),
        Figure("earliest end, after the budget", 1e3 * min(ends), "ms", least=-1e3 * step),
        Figure("latest end, after the budget", 1e3 * max(ends), "ms", most=1e3 * step),
    ]
