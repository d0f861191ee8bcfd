"""Phases follow one another from the process's start, and none is lost between them."""

import subprocess
import sys
import time

import pytest

from files import PROJECT
from runtime.startup import Startup, since_process_began


def test_phases_add_up():
    startup = Startup()
    startup.done("imports")
    time.sleep(0.2)
    startup.done("nap")
    assert list(startup.seconds) == ["imports", "nap"]
    assert 0.2 <= startup.seconds["nap"] < 0.4
    assert startup.total == pytest.approx(since_process_began(), abs=0.1)


def test_a_phase_that_comes_twice_is_one_row():
    startup = Startup()
    for phase in ("imports", "nap", "work", "nap"):
        startup.done(phase)
        time.sleep(0.05)
    assert list(startup.seconds) == ["imports", "nap", "work"]
    assert startup.seconds["nap"] >= 0.1
    assert startup.total == pytest.approx(since_process_began(), abs=0.1)


def test_a_run_says_its_long_phases_and_the_sum_of_the_others():
    startup = Startup()
    startup.seconds |= {"torch": 2.26, "data": 0.2, "network": 0.5, "loop": 0.31}
    assert startup.line == "startup   3.3 s: torch 2.3, network 0.5, others 0.5"
    assert startup.after("data") == pytest.approx(0.81)


def test_the_process_began_when_it_was_started():
    code = "import time; time.sleep(0.5)\nfrom runtime.startup import since_process_began as s"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(s())"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.5 <= float(done.stdout) <= time.perf_counter() - began + 0.02
