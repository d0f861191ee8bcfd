"""What counts as a loss when runs are killed; `python -m bench kill` kills them."""

import signal

from bench.studies.kill import Case, phase_of, table, wrong
from tests import warm


def test_a_phase_is_that_of_the_last_line_that_begins_one():
    assert phase_of([]) == "starting"
    said = ["building the model", "network  9 parameters", "warming up", "length    16 steps"]
    assert phase_of(said[:2]) == "building"
    assert phase_of(said) == "steps"
    assert phase_of([*said, " 50%  step 8/16"]) == "steps"
    assert phase_of([*said, "evaluating roundtrip weights, plain: 0%"]) == "evaluating the artifact"


def test_a_signal_must_leave_one_line_and_its_exit_code():
    last = "interrupted; kept: step 3; go on with: train.py --resume R"
    assert wrong(signal.SIGHUP, 129, ["warming up", last]) == []
    assert wrong(signal.SIGHUP, 0, ["run folder: R"]) == []
    assert wrong(signal.SIGTERM, -15, [last]) == ["exit code -15"]
    assert wrong(signal.SIGTERM, 143, ["warming up"]) == ["no line, but ['warming up']"]
    assert wrong(signal.SIGINT, 130, ["Traceback (most", last, last])[1:] == ["a traceback"]


def test_the_table_counts_each_kill_once():
    cases = [Case("SIGTERM", "steps", "resumed", []), Case("SIGKILL", "steps", "-", ["hang"])]
    lines = table(cases).splitlines()
    assert "| steps | 1 | 1 | 0 | 0 | 1 | 0 | 1 |" in lines
    assert "| building | 0 | 0 | 0 | 0 | 0 | 0 | 0 |" in lines


PROGRAM = """
import sys
from pathlib import Path
from bench.harness.forked import Run, make_data, preload
from bench.studies.kill import options

preload()
folder = Path(sys.argv[1])
run = Run(options(make_data(folder / "data"), folder / "run"), folder / "said.txt", picture=False)
sys.exit(run.wait())
"""


def test_a_run_without_a_picture_ends_well(tmp_path):
    """Each resumed run ended in a TypeError where it would have drawn one."""
    done = warm.run("-c", PROGRAM, tmp_path)
    assert done.returncode == 0, (tmp_path / "said.txt").read_text()
    assert (tmp_path / "run" / "summary.json").is_file()
    assert not [*(tmp_path / "run").glob("*.png")]
