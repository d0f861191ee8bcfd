"""``python -m bench``: a list of what can be measured, and the way to each."""

import subprocess
import sys

from bench.__main__ import COMMANDS, FOLDER, about, main


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


def test_a_command_gets_the_arguments_and_gives_the_exit_code():
    command = [sys.executable, "-m", "bench", "sprint", "--data", "d", "--seeds", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--seeds" in done.stderr
