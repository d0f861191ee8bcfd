"""What counts as a loss when runs are killed; `python -m bench kill` kills them."""

import signal

from bench.studies.kill import Case, phase_of, table, wrong


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
