"""The table of a run's validations."""

import json

import pytest

from bench.__main__ import main as bench

SCORE = {"kind": "validation", "weights": "raw", "method": "plain"}
EVENTS = [{**SCORE, "step": step, "elapsed": step / 2, "bpb": 3.5 - step} for step in (1, 2)]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    (tmp_path / "settings.toml").write_text('preset = "tiny"\n')
    facts = {"steps": 3, "train_seconds": 1.5, "code_bytes": 1, "artifact_bytes": 1, "scores": {}}
    (tmp_path / "summary.json").write_text(json.dumps(facts))
    return tmp_path


def test_each_validation_has_a_row(run, capsys):
    assert bench(["curve", str(run)]) == 0
    said = capsys.readouterr().out
    assert "preset tiny, 3 steps" in said and "| raw, plain | 1.00 | 1.5000 |" in said


@pytest.mark.parametrize("name", ["summary.json", "settings.toml"])
def test_a_damaged_file_is_one_line(run, capsys, name: str):
    (run / name).write_text("{")
    assert bench(["curve", str(run)]) == 2
    error = capsys.readouterr().err
    assert f"{name}: " in error and error.count("\n") == 1
