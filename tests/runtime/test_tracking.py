"""Trackers get what the log gets, go on with a resumed run, and cost the run nothing."""

import json
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from errors import InputError
from runtime import listeners, tracking
from runtime.listeners import check_tracker
from runtime.run_folder import RunFolder
from runtime.tracking import Tracker
from tests.small import clean_environment

STEP = {"elapsed": 1.5, "loss": 4.0, "groups": {"banks": {"grad": 2.0}}, "skipped": 0}
SCORE = {"elapsed": 2.0, "weights": "raw", "method": "plain", "bpb": 1.25, "nats": 3.5}


class Writer:
    """A stand-in for torch.utils.tensorboard.SummaryWriter that records its calls."""

    made: ClassVar[list["Writer"]] = []

    def __init__(self, log_dir: str, purge_step: int | None) -> None:
        self.log_dir, self.purge_step, self.closed = log_dir, purge_step, False
        self.scalars: list[tuple[str, float, int]] = []
        self.made.append(self)

    def add_text(self, tag: str, text: str, step: int) -> None:
        assert "seed = 1" in text

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def close(self) -> None:
        self.closed = True


class Run:
    """A stand-in for a run of wandb."""

    def __init__(self, **given: object) -> None:
        self.given = given
        self.rows: list[dict] = []
        self.metrics: list[tuple] = []
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, row: dict) -> None:
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def libraries(monkeypatch) -> SimpleNamespace:
    """Put stand-ins in the place of both libraries."""
    Writer.made.clear()
    runs: list[Run] = []

    def init(**given: object) -> Run:
        runs.append(Run(**given))
        return runs[-1]

    board, wandb = ModuleType("torch.utils.tensorboard"), ModuleType("wandb")
    vars(board)["SummaryWriter"] = Writer
    vars(wandb).update(init=init, Settings=lambda **given: given)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return SimpleNamespace(writers=Writer.made, runs=runs, wandb=wandb)


def tracked(folder: RunFolder, name: str, said: list[str]) -> RunFolder:
    folder.listeners.append(Tracker(name, folder.log_file, {"seed": 1}, folder.log, said.append))
    return folder


def steps(folder: RunFolder, *numbers: int) -> None:
    folder.log("captured", seconds=1.0)
    folder.log("startup", total=3.0)
    for number in numbers:
        folder.log("step", step=number, **STEP)


def test_tensorboard_gets_the_log_s_numbers_and_a_resumed_run_hides_lost_steps(libraries, tmp_path):
    said: list[str] = []
    run = tracked(RunFolder.create(tmp_path / "r", "x", {}), "tensorboard", said)
    steps(run, 1, 2, 3)
    run.log("validation", step=3, seconds=0.5, **SCORE)
    run.log("decision", step=3, lever="lr_factor", value=0.5)
    run.close()
    run = tracked(RunFolder.reopen(tmp_path / "r"), "tensorboard", said)
    run.truncate_log(2)
    steps(run, 3)
    run.close()
    first, second = libraries.writers
    assert first.log_dir == second.log_dir == str(tmp_path / "r" / "tensorboard")
    assert first.scalars[:4] == [
        ("train/elapsed", 1.5, 1),
        ("train/loss", 4.0, 1),
        ("train/groups/banks/grad", 2.0, 1),
        ("train/skipped", 0.0, 1),
    ]
    assert first.scalars[-3:] == [
        ("val/raw_plain/bpb", 1.25, 3),
        ("val/raw_plain/nats", 3.5, 3),
        ("lever/lr_factor", 0.5, 3),
    ]
    assert (first.purge_step, second.purge_step) == (None, 3)
    assert first.closed and second.closed and not said


def test_wandb_continues_the_run_of_a_resumed_run(libraries, tmp_path):
    for _ in range(2):
        fresh = not (tmp_path / "r").exists()
        folder = (
            RunFolder.create(tmp_path / "r", "x", {}) if fresh else RunFolder.reopen(tmp_path / "r")
        )
        tracked(folder, "wandb", [])
        steps(folder, 1)
        folder.close()
    first, second = libraries.runs
    assert first.given["id"] == second.given["id"]
    assert first.given["resume"] == "allow"
    assert first.given["dir"] == str(tmp_path / "r")
    assert (first.given["project"], first.given["name"]) == ("murmuration", "r")
    assert first.metrics == [("step", None), ("*", "step")]
    assert second.rows == [
        {
            "step": 1,
            "train/elapsed": 1.5,
            "train/loss": 4.0,
            "train/groups/banks/grad": 2.0,
            "train/skipped": 0.0,
        }
    ]
    assert (first.exit_code, second.exit_code) == (0, 0)


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_s_failure_costs_the_tracker_only(libraries, tmp_path, monkeypatch, broken):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no\nnetwork")

    place = (libraries.wandb, "init") if broken == "init" else (Run, broken)
    monkeypatch.setattr(*place, fail)
    said: list[str] = []
    run = tracked(RunFolder.create(tmp_path / "r", "x", {}), "wandb", said)
    steps(run, 1, 2)
    run.close()
    assert said == ["tracker wandb ends, the run goes on: no network"]
    rows = [json.loads(line)["kind"] for line in run.log_file.read_text().splitlines()]
    assert rows.count("step") == 2


def test_a_missing_library_is_one_line_with_the_command(monkeypatch, tmp_path):
    folder_of_wandb = ModuleSpec("wandb", None, is_package=True)
    for found in (None, folder_of_wandb):
        monkeypatch.setattr(
            listeners, "find_spec", lambda name, found=found: found if name == "wandb" else name
        )
        with pytest.raises(InputError, match=r"--track wandb needs its library; pip install wandb"):
            check_tracker("wandb")
    check_tracker("none")


def test_without_a_tracker_none_is_imported(tmp_path):
    monkey = set(sys.modules)
    run = RunFolder.create(tmp_path / "r", "x", {})
    steps(run, 1)
    run.close()
    assert not {"wandb", "tensorboard"} & (set(sys.modules) - monkey)
    assert [kind.__name__ for kind in tracking.SINKS.values()] == ["TensorBoard", "Wandb"]


def test_the_libraries_themselves_take_what_they_get(tmp_path, monkeypatch):
    """Where they are installed; offline, as a machine without network would."""
    for name, value in clean_environment(WANDB_MODE="offline").items():
        monkeypatch.setenv(name, value)
    for name in tracking.SINKS:
        if find_spec(name):
            said: list[str] = []
            run = tracked(RunFolder.create(tmp_path / name, "x", {}), name, said)
            steps(run, 1, 2)
            run.close()
            assert not said
            assert any(Path(run.path / name).iterdir())


def test_tensorboard_reads_the_log_s_numbers_back_without_lost_steps(tmp_path):
    """Where the library is installed: its own reader, on files that its own writer wrote."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    said: list[str] = []
    run = tracked(RunFolder.create(tmp_path / "r", "x", {}), "tensorboard", said)
    steps(run, 1, 2, 3)
    run.close()
    run = tracked(RunFolder.reopen(tmp_path / "r"), "tensorboard", said)
    run.truncate_log(2)
    steps(run)
    run.log("step", step=3, **STEP | {"loss": 5.0})
    run.log("validation", step=3, seconds=0.5, **SCORE)
    run.close()
    found = events.EventAccumulator(str(tmp_path / "r" / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses == [(1, 4.0), (2, 4.0), (3, 5.0)]
    assert [event.value for event in found.Scalars("val/raw_plain/bpb")] == [1.25]
    assert "train/groups/banks/grad" in found.Tags()["scalars"] and not said
