"""``python -m bench``: a list of what can be measured, and the way to each."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import command_line
from bench.__main__ import COMMANDS, FOLDER, about, main
from tests import warm


def test_without_a_command_they_are_listed(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name in ("ablate", "decisions", "sprint", "startup"):
        assert f" {name} " in listed
    assert "harness" not in listed
    assert all(about(FOLDER / folder / f"{name}.py") for name, folder in COMMANDS.items())


def test_an_unknown_command_is_refused_with_those_there_are(capsys):
    assert main(["ablation"]) == 2
    said = capsys.readouterr().err
    assert "there are: ablate," in said
    assert "did you mean ablate?" in said


@pytest.mark.parametrize("name", ["profile", "startup", "tune_mlp", "variants"])
def test_without_a_gpu_what_measures_one_says_so(name, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([name]) == 2
    assert capsys.readouterr().err == "error: this command measures a GPU, and there is none\n"


def test_a_process_that_fails_costs_no_traceback(capsys, monkeypatch):
    failed = subprocess.CalledProcessError(2, ["python", "train.py", "--data", "a b"])
    monkeypatch.setattr(command_line, "run", Mock(side_effect=failed))
    assert main(["sprint"]) == 2
    assert capsys.readouterr().err == "error: exit code 2 of: python train.py --data 'a b'\n"


def test_a_command_gets_the_arguments_and_gives_the_exit_code():
    done = warm.run("-m", "bench", "sprint", "--data", "d", "--seeds", "x")
    assert done.returncode == 2
    assert "--seeds" in done.stderr


def test_a_command_that_is_ended_ends_its_processes():
    command = [sys.executable, "-m", "bench", "fuzz", "--minutes", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until, children = time.monotonic() + 60, []
        while len(children) < 2 and time.monotonic() < until:  # the work, and its tracker
            time.sleep(0.05)
            children = listed.read_text().split()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
    alive = True
    while alive and time.monotonic() < until:
        alive = any(Path(f"/proc/{child}").exists() for child in children)
    assert len(children) == 2 and not alive
