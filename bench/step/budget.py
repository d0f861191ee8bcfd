"""How near runs end to their budget: ``python -m bench budget [--runs 20] [--seconds 10]``.

Each run is a loop of its own over preset ``sprint``'s steps, timed from outside: from its start to
when the device is done. Exits with 1 where one ends more than a step before or after its budget.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.harness.figures import Figure, figures_table
from bench.harness.record import provenance
from bench.harness.rig import Rig
from runtime.ranks import World

SETTLING = 10  # steps


def main(arguments: list[str]) -> int:
    """Make the runs, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench budget", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--commit", help="of the code, where it is no git checkout")
    parser.add_argument("settings", nargs="*", help="over preset sprint, after --")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), World.single(device), options.settings)
        step = rig.run(SETTLING) / SETTLING
        ends = [timed(rig, options.seconds) - options.seconds for _ in range(options.runs)]
        rig.close()
    print("\n".join(f"{name}: {value}" for name, value in provenance(options.commit).items()))
    found = figures(ends, step, options.seconds)
    print(figures_table(found))
    return int(any(not figure.met for figure in found))


def timed(rig: Rig, seconds: float) -> float:
    """Seconds that a run of such a budget takes."""
    began = time.perf_counter()
    rig.run_out(seconds)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def figures(ends: list[float], step: float, seconds: float) -> list[Figure]:
    """Of when runs ended, in seconds after their budget."""
    return [
        Figure(f"runs of {seconds:g} s", len(ends), ""),
        Figure("step", 1e3 * step, "ms"),
        Figure("earliest end, after the budget", 1e3 * min(ends), "ms", least=-1e3 * step),
        Figure("latest end, after the budget", 1e3 * max(ends), "ms", most=1e3 * step),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
