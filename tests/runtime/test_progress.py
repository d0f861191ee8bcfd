import os
import pty
import subprocess
import sys

import pytest

from runtime import progress
from runtime.progress import Progress

RUN = """
import os
from runtime.progress import Progress
progress = Progress(60.0, None)
progress.__enter__()
progress.update(1, 6.93, 1000.0, 59.0)
progress.update(2, 2.5, 1_234_567.0, 30.0, 1.25)
"""


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_plain_lines_come_at_a_pace_and_the_last_one_always(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress(None, 1000) as shown:
        for step in range(500):
            shown.update(step, 5.0, 2500.0)
    assert [line.split()[2] for line in lines(capsys)] == ["0/1000", "499/1000"]


def test_plain_lines_go_on_when_time_passes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    with Progress(None, 4) as shown:
        for step in range(4):
            shown.update(step, 5.0, 2500.0)
    assert len(lines(capsys)) == 4


def test_a_new_bpb_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100.0, None) as shown:
        shown.update(1, 5.0, 2500.0, 90.0)
        shown.update(2, 4.0, 2500.0, 80.0, 1.5)
        shown.update(3, 3.0, 2500.0, 70.0, 1.5)
        assert lines(capsys) == [
            " 10%  step 1  loss 5.0000  2.50k tok/s  1:30 left",
            " 20%  step 2  loss 4.0000  2.50k tok/s  1:20 left  bpb 1.5000",
        ]


def test_phases_are_announced_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, None) as shown:
        shown.phase("warm-up")
        for percent in range(0, 101, 10):
            shown.phase(f"evaluating {percent} %")
        shown.update(1, 5.0, 10.0)
        shown.phase("evaluating 0 %")
    assert lines(capsys) == [
        "warm-up",
        "evaluating 0 %",
        "evaluating 100 %",
        "step 1  loss 5.0000  10 tok/s",
        "evaluating 0 %",
    ]


def test_a_phase_ends_with_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Part 3, newcomer's 8: the last that was seen of an evaluation was 44 %."""
    with Progress(None, None) as shown:
        for phase in ("raw", "averaged"):
            for percent in (0, 44, 100):
                shown.phase(f"evaluating {phase}: {percent}%")
    assert lines(capsys) == [
        f"evaluating {phase}: {percent}%" for phase in ("raw", "averaged") for percent in (0, 100)
    ]


def test_steps_that_the_clock_ends_end_at_100_percent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(8.0, None) as shown:
        shown.update(1, 5.0, 100.0, 7.0)
        shown.update(2, 4.0, 100.0, 3.8)
        shown.ended()
        shown.phase("calibrating")
    assert lines(capsys) == [
        " 12%  step 1  loss 5.0000  100 tok/s  0:07 left",
        "100%  step 2  loss 4.0000  100 tok/s",
        "calibrating",
    ]
    with Progress(None, 2) as shown:
        for step in (1, 2):
            shown.update(step, 5.0, 100.0)
        shown.ended()
    assert [line.split()[0] for line in lines(capsys)] == ["50%", "100%"]
    with Progress(None, 2) as shown:
        shown.ended()
    assert lines(capsys) == []


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, 10, enabled=False) as shown:
        shown.phase("warm-up")
        shown.update(1, 5.0, 10.0, None, 1.0)
    assert lines(capsys) == []


def test_plain_lines_are_flushed() -> None:
    command = [sys.executable, "-c", RUN + "os._exit(0)"]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=buffered)
    assert finished.stdout.splitlines()[-1].endswith("bpb 1.2500")


def test_a_terminal_keeps_one_line() -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", RUN + "progress.__exit__(None, None, None)"]
    subprocess.run(command, stdout=theirs, env=environment, check=True)
    os.close(theirs)
    screen = os.read(ours, 65536).decode()
    os.close(ours)
    assert "1.23M tok/s  0:30 left  bpb 1.2500" in screen
    assert screen.count("\n") == 1, "the second step must replace the first"


def test_a_line_on_a_terminal_breaks_between_words_but_a_path_is_whole() -> None:
    text = "0123456789 " * 5 + "end"
    path = "run folder: /" + "x" * 45
    program = "from runtime.progress import Progress\nwith Progress(None, 2) as shown:\n"
    program += f" shown.line({text!r})\n shown.line({path!r})\n"
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "40"}
    subprocess.run([sys.executable, "-c", program], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    screen = os.read(ours, 65536).decode()
    os.close(ours)
    assert "0123456789 \r\n0123456789" in screen and path in screen
