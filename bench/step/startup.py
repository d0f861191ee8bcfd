"""Measure the time from a process's start to its first step.

Preset ``sprint`` starts twice on the kernels, with an empty Triton cache and with the first run's,
and ends after warm-up. The table has the seconds of each phase; the exit code is 1 above a target.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.harness.markdown import markdown
from bench.harness.record import Commit, as_lines, need_gpu, provenance
from errors import InputError
from files import PROJECT
from runtime.run_folder import read_log

BARS = {"cold": 60.0, "warm": 20.0}  # seconds
GIVE_UP = 300.0


def main(*settings: str, data: Path | None = None, commit: Commit = None) -> int:
    """Measure both, print the table.

    Args:
        settings: for train.py, after --
        data: folder of shards; by default it is generated
    """
    need_gpu()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = data or generate(folder / "data")
        environment = os.environ | {"TRITON_CACHE_DIR": str(folder / "triton")}
        measured = {cache: startup(data, folder / cache, environment, settings) for cache in BARS}
    print(as_lines(provenance(commit)))
    print(table(measured))
    return int(any(measured[cache]["total"] > bar for cache, bar in BARS.items()))


def generate(folder: Path) -> Path:
    """Generate the built-in corpus; return its folder."""
    command = [sys.executable, "-m", "data", "builtin", "--out", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return folder


def startup(
    data: Path, run: Path, environment: dict[str, str], settings: Sequence[str]
) -> dict[str, float]:
    """Return the seconds of each phase of one run, and their sum.

    Raises:
        InputError: the run ended, or went on too long, without a first step.
    """
    command = [sys.executable, str(PROJECT / "train.py"), "--preset", "sprint"]
    command += ["--backend", "kernels", "--data", str(data), "--run-dir", str(run), *settings]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            return wait_for_startup(process, run / "log.jsonl")
        finally:
            process.send_signal(signal.SIGTERM)


def wait_for_startup(process: subprocess.Popen, log: Path) -> dict[str, float]:
    """Return the run's log event of its startup, once it has taken its first step."""
    deadline = time.monotonic() + GIVE_UP
    while process.poll() is None and time.monotonic() < deadline:
        events = list(read_log(log)) if log.exists() else []
        if any(event["kind"] == "step" for event in events):
            found = next(event for event in events if event["kind"] == "startup")
            return {name: seconds for name, seconds in found.items() if name != "kind"}
        time.sleep(0.1)
    raise InputError(f"no first step; train.py returned {process.poll()}")


def table(measured: dict[str, dict[str, float]]) -> str:
    """Return a table with one column per cache: seconds by phase, and whether it met the target."""
    rows = [
        [phase, *(f"{seconds[phase]:.1f}" for seconds in measured.values())]
        for phase in next(iter(measured.values()))
    ]
    met = {cache: seconds["total"] <= BARS[cache] for cache, seconds in measured.items()}
    cells = [f"{'met' if met[cache] else 'missed'} ({BARS[cache]:.0f})" for cache in measured]
    return markdown(["phase", *(f"{cache} s" for cache in measured)], [*rows, ["bar", *cells]])
