"""``python -m swarm``: exit codes, and one line for what cannot be."""

import json

import pytest

from swarm.__main__ import main
from swarm.decision_log import NAME
from swarm.simulate import KINDS, SyntheticRun, simulate
from tests.swarm.small import steering


@pytest.fixture
def run(tmp_path):
    """A run folder with a decision log, a log of steps and settings."""
    swarm, made_up = steering(), SyntheticRun("spike")
    swarm.log_to(tmp_path / NAME)
    simulate(swarm, made_up, made_up.obey)
    swarm.close()
    events = [
        {"kind": "step", **row._asdict()} | {"step": row.step + 1} for row in SyntheticRun("spike")
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / "settings.toml").write_text('preset = "seed"\n')
    return tmp_path


def test_replay_is_0_for_what_is_recomputed_alike(run, capsys):
    assert main(["replay", str(run)]) == 0
    assert "39 cycles, each recomputed alike" in capsys.readouterr().out


def test_replay_is_1_for_a_changed_decision(run, capsys):
    text = (run / NAME).read_text()
    assert text.count('"after": 0.15') == 1
    (run / NAME).write_text(text.replace('"after": 0.15', '"after": 0.2'))
    assert main(["replay", str(run / NAME)]) == 1
    assert "1 differences in 39 cycles" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_simulate_shows_what_a_made_up_run_s_swarm_decides(kind, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["simulate", kind]) == 0
    shown = capsys.readouterr().out
    assert "deadline" in shown
    assert "us a cycle (p50)" in shown
    assert ("rollback" in shown) == (kind == "divergence")


def test_simulate_takes_settings(capsys):
    assert main(["simulate", "calm", "--agents-off", "qat", "--swarm-every", "200"]) == 0
    shown = capsys.readouterr().out
    assert "qat" not in shown
    assert "15 cycles" in shown


def test_simulate_takes_a_run_s_log(run, capsys):
    assert main(["simulate", str(run)]) == 0
    assert "spike" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay", "/no/run"], "/no/run: no such file; a run with --swarm leaves one"),
        (["replay", "/no/run", "--preset", "tiny"], "unknown option: --preset"),
        (["simulate", "/no/run"], "no run folder, and none of: calm, spike"),
        (["simulate", "calm", "--no-swarm"], "have no swarm"),
        (["simulate", "calm", "--agents-off", "x"], "no agent 'x'"),
        (["simulate", "calm", "--swarm-every", "0"], "swarm_every"),
    ],
)
def test_what_cannot_be_is_one_line_and_2(arguments, words, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_damaged_log_of_steps_is_one_line(run, capsys):
    step = {"kind": "step", "step": 1, "progress": 0.1, "lr_scale": 1.0, "loss": 2.0}
    for changes in ({}, {"gradient_norm": "x"}, {"gradient_norm": 1.0, "loss": "x"}):
        (run / "log.jsonl").write_text(json.dumps(step | changes) + "\n")
        assert main(["simulate", str(run)]) == 2
        said = capsys.readouterr().err
        assert "log.jsonl is damaged" in said and said.count("\n") == 1
