"""A whole run by a reference clock: its time is the table's, that of its end included."""

import json
from dataclasses import asdict

import pytest

from settings.load import load_settings
from settings.variants import reachable
from tests.train.runs import train
from training.reference_clock import network_of, worked_with


def test_a_run_takes_the_steps_and_the_time_of_its_table(corpus):
    config = ["--config", str(corpus / "run.toml")]
    settings = load_settings(config, {})
    (variant,) = reachable(settings)
    table = {
        "device": "x",
        "ranks": 1,
        "network": network_of(settings),
        "steps": [{"variant": asdict(variant), "milliseconds": 50.0}],
        "work": {"keep": 0.0, "calibration": 200.0, "choosing": 40.0, "probe": 10.0},
        "worked_with": worked_with(settings),
    }
    path, run = corpus / "clock.json", corpus / "by-reference"
    path.write_text(json.dumps(table))
    arguments = [*config, "--data", corpus / "data", "--run-dir", run, "--reference-clock", path]
    arguments += ["--wallclock", "1", "--iterations", "100000"]
    done = train(*arguments)
    assert done.returncode == 0, done.stderr
    assert "about 20 steps in 1 s, at 50.0 ms a step" in done.stdout
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 15
    assert summary["train_seconds"] == pytest.approx(15 * 0.05 + 0.24)
    assert summary["calibration"]["reserved"] == 0.2
