"""A run of the bench: its trouble and guard are there, and what it came to is kept."""

import json
import math
from pathlib import Path

import pytest

import train
from bench.rescue.baselines import ZClip
from bench.rescue.runs import Run, outcome
from errors import InputError
from runtime.progress import Progress
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
