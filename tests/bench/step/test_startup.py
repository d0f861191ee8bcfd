"""Startup's phases come from the run's own log; a run that ends early is no measurement."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.step.startup import BARS, table, wait_for_startup
from errors import InputError

EVENTS = '{"kind": "startup", "model": 2.0, "total": 3.0}\n{"kind": "step", "step": 1}\n'


def process(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code])


def test_phases_are_read_once_a_step_is_done(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    code = (
        f"import pathlib, time; pathlib.Path({str(log)!r}).write_text({EVENTS!r}); time.sleep(60)"
    )
    with process(code) as run:
        assert wait_for_startup(run, log) == {"model": 2.0, "total": 3.0}
        run.kill()


def test_a_run_without_a_step_is_an_error(tmp_path: Path):
    with process("exit(2)") as run, pytest.raises(InputError, match="returned 2"):
        wait_for_startup(run, tmp_path / "log.jsonl")


def test_the_table_says_what_was_missed():
    measured = {cache: {"model": 1.0, "total": bar} for cache, bar in BARS.items()}
    measured["warm"]["total"] += 0.1
    head, _, *rows = table(measured).splitlines()
    assert head == "| phase | cold s | warm s |"
    assert rows == [
        "| model | 1.0 | 1.0 |",
        "| total | 60.0 | 20.1 |",
        "| bar | met (60) | missed (20) |",
    ]
