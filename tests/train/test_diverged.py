"""A run that diverged says so, and exports the last good weights if there are any."""

import json
import math

import pytest

import train as program
from artifact.submission.entry import Entry
from errors import InputError
from training.trainer import Trainer


@pytest.fixture
def options(corpus) -> list[str]:
    return ["--config", str(corpus / "run.toml"), "--data", str(corpus / "data")]


def test_weights_that_are_not_finite_are_not_exported(options, tmp_path, capsys):
    """U12: every score was NaN and the exit code 0, or the advice was a smaller model."""
    run = tmp_path / "run"
    given = ["--run-dir", str(run), "--iterations", "6", "--scalar-lr", "1e30", "--no-swarm"]
    assert program.main([*options, *given]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: training diverged: ")
    assert "of 6 steps were skipped" in said and said.endswith("lower the learning rates")
    assert not (run / "artifact.bin").exists() and not (run / "summary.json").exists()
    with pytest.raises(InputError, match=r"finished: training diverged; lower the learning rates"):
        Entry.read(run)
    assert program.main(["--resume", str(run)]) == 1
    assert "error: training diverged: no finite weights are kept" in capsys.readouterr().err


def test_a_run_that_diverged_late_exports_what_was_kept_and_fails(
    options, straight, tmp_path, monkeypatch, capsys
):
    """F11: three rollbacks, exit code 0 and no word; the artifact was of the diverged end."""
    schedule = Trainer._schedule_levers

    def raised(trainer: Trainer, moment, step: int) -> None:
        schedule(trainer, moment, step)
        if step >= 14:
            trainer.levers.schedule(lr_scale=1e6)

    monkeypatch.setattr(Trainer, "_schedule_levers", raised)
    given = ["--run-dir", str(tmp_path / "run"), "--swarm-every", "2"]
    assert program.main([*options, *given]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("error: training diverged; the artifact has the best weights")
    assert "exported: kept weights" in shown.out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["diverged"] and summary["exported_weights"] == "kept"
    trouble = f"trouble: {summary['skipped_steps']} of 20 steps were skipped"
    assert (trouble in shown.out) == bool(summary["skipped_steps"] or summary["rollbacks"])
    calm = json.loads((straight / "summary.json").read_text())
    assert not calm["diverged"] and calm["skipped_steps"] == calm["rollbacks"] == 0
    bpb = summary["scores"]["roundtrip, plain"]["bpb"]
    assert math.isfinite(bpb) and bpb < 1.3 * calm["scores"]["roundtrip, plain"]["bpb"]
    raw = summary["scores"]["raw, plain"]["bpb"]
    assert raw is None or raw > 1.3 * bpb
