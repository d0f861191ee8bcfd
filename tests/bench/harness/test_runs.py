"""Runs of a series: one that diverged, one that is killed, and one without artifact."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import train
from artifact.submission.code_size import hashes_of
from bench.harness import pairs, runs
from bench.harness.runs import Summary, summaries_of, unquantised, unquantised_summary
from errors import InputError
from files import PROJECT, write_text
from runtime.lock import lock, unlock
from tests.bench.studies.test_ablate import SMALL

HOT = ("--matrix-lr", "1e30", "--tied-embed-lr", "1e30")


@pytest.mark.slow
def test_a_run_that_left_nothing_is_finished_and_made_once(
    builtin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*SMALL.split(), "--data", str(builtin), *HOT]
    found = runs.summary(tmp_path / "hot", command)
    assert found["diverged"] and not found["scores"] and not found["other_code"]
    monkeypatch.setattr(runs.train, "main", lambda arguments: pytest.fail("made again"))
    assert runs.summary(tmp_path / "hot", command) == found


def test_a_run_that_was_refused_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ended with 2"):
        runs.summary(tmp_path / "a", ["--preset", "tiny", "--data", "/nope"])


def test_a_run_that_other_code_has_made_is_named(tmp_path: Path) -> None:
    """A series that was continued gave all its runs as those of the newest commit."""
    facts = {"scores": {}, "code_modules": {**hashes_of(PROJECT), "train.py": "another"}}
    (tmp_path / "summary.json").write_text(json.dumps(facts))
    found = runs.summary(tmp_path, [])
    assert found["other_code"] and runs.remarks([found, {}]) == {"other_code": 1}
    assert pairs.counted([found, {}]) == "2, 1 by other code"


def test_a_run_whose_gpu_others_used_is_named(tmp_path: Path) -> None:
    """Two rows of a series lost a tenth and half of their steps, and nothing said so."""
    facts = {"scores": {}, "code_modules": hashes_of(PROJECT), "others_gib": 12.4}
    (tmp_path / "summary.json").write_text(json.dumps(facts))
    found = runs.summary(tmp_path, [])
    assert pairs.counted([found, {}]) == "2, 1 beside other processes on the GPU"
    counted = runs.summary(tmp_path, ["--reference-clock", "table.json"])  # by a table's time
    assert not counted["beside"]
    (tmp_path / "summary.json").write_text(json.dumps({**facts, "others_gib": 0.9}))
    assert not runs.summary(tmp_path, [])["beside"]


def killed(folder: str) -> Summary:
    """Return a summary; of the second run the machine has no memory."""
    if folder != "a":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"steps": 7}


def test_a_killed_process_is_one_line_after_the_runs_before_it():
    made = summaries_of([("a",), ("b",), ("c",)], killed)
    assert next(made) == {"steps": 7}
    with pytest.raises(InputError, match="killed, perhaps for its memory; the same command goes"):
        next(made)


def device(folder: Path) -> Summary:
    """Return the GPU that a process may see, once another process of its pair is there, too."""
    time.sleep(0 if (folder / "summary.json").exists() else 1)
    return {"device": os.environ["CUDA_VISIBLE_DEVICES"], "process": os.getpid()}


def test_two_runs_share_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    made = list(summaries_of([(tmp_path / "a",), (tmp_path / "b",)], device, sharing=2))
    assert [each["device"] for each in made] == ["5", "5"]
    assert len({each["process"] for each in made}) == 2


def test_the_last_runs_of_a_series_have_a_gpu_each(tmp_path: Path, monkeypatch):
    """Two runs of a ladder shared one of two GPUs, and took twice their time."""
    monkeypatch.setattr(runs, "gpus", lambda: ["5", "6"])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "summary.json").touch()
    folders = [(tmp_path / name,) for name in "abc"]
    _, *made = summaries_of(folders, device, sharing=2)
    assert {each["device"] for each in made} == {"5", "6"}


def test_only_runs_whose_time_a_table_counts_share_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs.torch.cuda, "is_available", lambda: True)
    clocked = ["--reference-clock", str(PROJECT / "bench/results/reference-ladder.json")]
    clocked += ["--preset", "frontier-sprint"]
    assert runs.shared_by([clocked, clocked]) == 2
    assert runs.shared_by([clocked, ["--preset", "frontier-sprint"]]) == 1


def test_without_an_artifact_the_weights_that_are_exported_are_scored(tmp_path, monkeypatch):
    weights, export = {"w": 1.0}, train.export
    folder = SimpleNamespace(artifact=tmp_path / "artifact.bin")
    trained: Any = SimpleNamespace(exported=weights)
    with unquantised():
        rank: Any = SimpleNamespace(folder=folder)
        assert train.export(rank, None, trained) == (weights, {})  # pyright: ignore[reportArgumentType]
        other: Any = SimpleNamespace(folder=None)
        assert train.export(other, None, trained) == (weights, {})  # pyright: ignore[reportArgumentType]
    assert folder.artifact.read_bytes() == b""
    assert train.export is export


def test_a_run_with_an_artifact_is_not_taken_for_one_without(tmp_path: Path):
    (tmp_path / "summary.json").write_text('{"artifact": {}, "scores": {}}', encoding="utf-8")
    assert unquantised_summary(tmp_path, [])["artifact"] == {}
    (tmp_path / "summary.json").write_text(
        '{"artifact": {"bytes": 3}, "scores": {}}', encoding="utf-8"
    )
    with pytest.raises(InputError, match="holds a run with an artifact"):
        unquantised_summary(tmp_path, [])


@pytest.mark.parametrize("text", ["", '{"scores": {', "[]", '{"scores": {"a": {"bpb": "low"}}}'])
def test_a_damaged_summary_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"summary\.json: .*; remove the run's folder"):
        runs.summary(tmp_path, [])


def test_a_score_that_was_not_finite_is_read(tmp_path: Path):
    """A lost run has it: a series of runs goes on after one."""
    lost = {"raw, plain": {"bpb": None, "nats": None}}
    (tmp_path / "summary.json").write_text(json.dumps({"scores": lost}), encoding="utf-8")
    assert runs.summary(tmp_path, [])["scores"] == lost


def test_a_run_that_still_goes_on_is_not_removed(tmp_path: Path):
    (tmp_path / "train.log").write_text("step 1")
    holder = lock(tmp_path)
    with pytest.raises(InputError, match="in use by another process"):
        runs.summary(tmp_path, [])
    assert (tmp_path / "train.log").exists()
    unlock(holder)
    runs.clear(tmp_path)
    assert not tmp_path.exists()


def lasting(file: str) -> Summary:
    """Write this process's number to a file, and stay."""
    write_text(Path(file), str(os.getpid()))
    time.sleep(600)
    return {}


def test_a_run_ends_with_a_series_that_is_killed(tmp_path: Path):
    """The same command then trained in the folder of a run that still went on."""
    file = tmp_path / "number"
    code = "import sys; from tests.bench.harness.test_runs import lasting, summaries_of\n"
    code += "list(summaries_of([(sys.argv[1],)], lasting))"
    with subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=PROJECT) as series:
        wait_for(file.exists)
        series.kill()
    wait_for(lambda: not Path("/proc", file.read_text()).exists())


def wait_for(what: Callable[[], bool]) -> None:
    """Wait until something is true, at most a minute."""
    ends = time.monotonic() + 60
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.1)
