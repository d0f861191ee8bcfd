"""Nothing of a run is lost: signals in every phase, files that cannot be written, other ranks."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import files
import train as program
from artifact.format import container
from runtime.progress import Progress
from runtime.run_folder import read_log
from tests.small import one_thread  # noqa: F401 - runs are in this process
from tests.train.runs import losses, train

# In order, each with the signal that comes when a run says so.
PHASES = {
    "building the model": signal.SIGTERM,
    "warming up": signal.SIGINT,
    "calibrating": signal.SIGHUP,
    "evaluating raw": signal.SIGTERM,
    "exporting": signal.SIGINT,
    "evaluating roundtrip": signal.SIGHUP,
    "finished": signal.SIGTERM,
}


@pytest.fixture
def options(corpus: Path) -> list[str]:
    return ["--config", str(corpus / "run.toml"), "--data", str(corpus / "data")]


def scores(run: Path) -> dict[str, tuple[float, int]]:
    rows = json.loads((run / "summary.json").read_text())["scores"]
    return {name: (row["nats"], row["bytes"]) for name, row in rows.items()}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, words: str, number: int) -> None:
    shown = Progress.phase

    def phase(self: Progress, text: str) -> None:
        shown(self, text)
        if text.startswith(words):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Progress, "phase", phase)


def test_a_run_that_is_stopped_in_each_phase_comes_to_the_same(
    corpus, options, straight, monkeypatch, capsys
):
    """F6, U11: outside the steps a signal left a traceback, or nothing, and no way to go on."""
    run = corpus / "stopped"
    again = [*options, "--run-dir", str(run)]
    for words, number in PHASES.items():
        with monkeypatch.context() as patch:
            interrupt_at(patch, words, number)
            assert program.main(again) == 128 + number
        said = capsys.readouterr()
        assert said.err == ""
        last = said.out.splitlines()[-1]
        assert last.startswith("interrupted; ")
        if "--resume" in last:
            again = ["--resume", str(run)]
            assert last.endswith(f" --resume {run}")
        assert ("kept: step 20" in last) == (words not in list(PHASES)[:2])
        assert ("artifact.bin" in last) == (words in list(PHASES)[-2:])
    assert program.main(again) == 0
    assert "warming up" not in capsys.readouterr().out
    assert (run / "artifact.bin").read_bytes() == (straight / "artifact.bin").read_bytes()
    assert scores(run) == scores(straight)
    assert losses(run) == losses(straight)
    kinds = [event["kind"] for event in read_log(run / "log.jsonl")]
    assert [kinds.count(kind) for kind in ("checkpoint", "calibration", "summary")] == [1, 1, 1]


def test_files_that_cannot_be_written_cost_a_warning_each(
    corpus, options, straight, monkeypatch, capsys
):
    """F3: without room for the picture, the summary or decisions, a run ended in a traceback."""
    opened = Path.open

    def open_file(path: Path, *given: Any, **more: Any) -> Any:
        if path.name.startswith((".summary.json", ".loss.png", ".decisions.jsonl")):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, *given, **more)

    run = corpus / "unwritten"
    monkeypatch.setattr(files.Path, "open", open_file)
    assert program.main([*options, "--run-dir", str(run), "--eval-stride", "0"]) == 0
    said = capsys.readouterr()
    for name in ("summary.json", "loss.png", "decisions.jsonl"):
        assert not (run / name).exists()
    lines = [line for line in said.out.splitlines() if "No space left on device" in line]
    assert len(lines) == 3
    assert said.err == ""
    assert (run / "artifact.bin").read_bytes() == (straight / "artifact.bin").read_bytes()


def test_an_artifact_that_cannot_be_written_is_one_line_and_made_later(
    corpus, options, straight, monkeypatch, capsys
):
    run = shutil.copytree(straight, corpus / "full")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(container, "save", refuse)
        assert program.main(["--resume", str(run)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: no {run / 'artifact.bin'}: No space left on device")
    assert "kept: step 20" in said.err and f"--resume {run}" in said.err
    assert said.err.count("\n") == 1


def test_a_folder_that_is_deleted_during_the_run_is_one_line(
    corpus, options, straight, monkeypatch, capsys
):
    """F12: it ended in a traceback of the picture."""
    run = shutil.copytree(straight, corpus / "deleted")
    monkeypatch.setattr(Progress, "phase", lambda self, text: shutil.rmtree(run, True))
    assert program.main(["--resume", str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_line_that_rank_0_alone_finds_stands_alone(corpus, options, straight):
    """F7: it was the first of 73 lines."""
    done = train(*options, "--run-dir", straight, ranks=2)
    of_torchrun = done.stderr.index("torch/distributed/elastic")
    own = [line for line in done.stderr[:of_torchrun].splitlines() if "error:" in line]
    assert own == [
        f"error: run folder {straight} is not empty; give a new --run-dir, or --resume it"
    ]
    assert "closed by peer" not in done.stderr
    assert "exitcode: 2) local_rank: 0" in done.stderr
    assert "NO_OTHER_FAILURES" in done.stderr
