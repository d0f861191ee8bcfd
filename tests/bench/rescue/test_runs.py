"""A run of the bench: its trouble and guard are there, and what it came to is kept."""

import json
import math
from pathlib import Path

import pytest

import train
from bench.rescue.baselines import ZClip
from bench.rescue.runs import Run, found, outcome
from bench.rescue.site import Clock, Site
from errors import InputError
from runtime.progress import Progress
from swarm.decision_log import NAME
from tests.training.small import VOCAB
from training.loop import Loop
from training.trainer import Trainer

SCORE = {"bpb": 2.0, "nats": math.log(VOCAB) / 2}
SUMMARY = {"scores": {"roundtrip, plain": SCORE}, "steps": 20, "step_ms": 5.0}


@pytest.fixture
def programs(make, monkeypatch: pytest.MonkeyPatch):
    """``programs(summary)``: train.py is a loop that leaves this summary, or none."""

    def loop(rank: object, trainer: Trainer) -> int:
        nowhere = Progress(None, None, enabled=False)
        Loop(trainer, trainer.settings, None, nowhere, lambda *_: 1.0).run()
        return 0

    def install(summary: dict | None) -> None:
        def main(command: list[str]) -> int:
            folder = Path(command[-1])
            folder.mkdir(parents=True)
            status = train.train_and_score(None, make())  # pyright: ignore
            if summary:
                (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
            return status

        monkeypatch.setattr(train, "main", main)

    monkeypatch.setattr(train, "train_and_score", loop)
    return install


def test_a_run_has_its_trouble_and_its_guard_and_is_kept(programs, tmp_path, monkeypatch):
    seen: list[int] = []
    monkeypatch.setattr(ZClip, "__call__", lambda guard, gradients: seen.append(len(gradients)))
    run = Run(tmp_path / "run", ["--data", "x"], "spikes", "F1", 1, 1.0)
    programs(SUMMARY)
    came_to = outcome(*run)
    assert len(seen) == 20
    assert 4 <= came_to["struck"] <= 14
    assert (came_to["bpb"], came_to["steps"], came_to["alarms"]) == (2.0, 20, 0)
    assert came_to["uniform"] == pytest.approx(4.0)  # twice the nats
    assert came_to["artifact"]
    assert outcome(*run) == came_to
    assert len(seen) == 20
    assert train.train_and_score.__name__ == "loop" and Loop.run.__name__ == "run"


def test_a_run_without_artifact_is_dead_and_one_without_steps_is_refused(
    programs, tmp_path, monkeypatch
):
    programs(None)
    came_to = outcome(*Run(tmp_path / "run", ["--data", "x"], "broken weights", "F0", 1))
    assert came_to["bpb"] is None and came_to["uniform"] is None
    monkeypatch.setattr(train, "main", lambda command: 2)
    with pytest.raises(InputError, match=r"train.py --data x ended with 2"):
        outcome(*Run(tmp_path / "other", ["--data", "x"], "", "F0", 1))


def test_an_act_is_the_first_alarm_once_trouble_struck(make, tmp_path):
    """A wider window is no alarm, and neither is a change that was refused."""
    changes = [
        (5, "lr_factor", 0.5),
        (12, "window", 512.0),
        (13, "clip", 1.0),
        (15, "rollback", 2.0),
    ]
    lines = []
    for number, (step, lever, after) in enumerate(changes, 1):
        verdict = {"lever": lever, "before": 1.0, "after": after, "rule": "alone", "agents": []}
        cycle = {"cycle": number, "snapshot": {"step": step, "progress": 0.5}, "proposals": []}
        lines.append({"kind": "cycle", **cycle, "verdicts": [verdict], "microseconds": 1.0})
    (tmp_path / NAME).write_text("".join(json.dumps(each) + "\n" for each in lines))
    run, site = Run(tmp_path, [], "spikes", "S", 1), Site(make(), 1, Clock(1.0))
    assert (found(run, site)["alarms"], found(run, site)["acted"]) == (2, None)
    for struck, acted in ((5, 5), (6, 15), (16, None)):
        site.struck = struck
        assert found(run, site)["acted"] == acted


def test_leaving_noise_out_is_an_alarm(make, tmp_path):
    rows = [{"step": 4, "lever": "lr_factor"}, {"step": 8, "lever": "skip_noise", "value": 3}]
    lines = [json.dumps({"kind": "decision", **row}) for row in rows]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run, site = Run(tmp_path, [], "garbage, spread", "S", 1), Site(make(), 1, Clock(1.0))
    site.struck = 0
    assert (found(run, site)["alarms"], found(run, site)["acted"]) == (1, 8)


@pytest.mark.parametrize("text", ["", "[]", '{"artifact": true}'])
def test_a_damaged_outcome_is_one_line(tmp_path, text):
    (tmp_path / "rescue.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"rescue\.json: .*; remove the run's folder"):
        outcome(*Run(tmp_path, ["--data", "x"], "spikes", "F1", 1))
