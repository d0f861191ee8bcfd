"""The artifact of a run: calibrated, coarsened until it fits, and none over the limit."""

import json
import shutil

import torch

from artifact.export import load
from tests.train.runs import losses, train


def test_the_artifact_is_no_finer_for_what_it_is_scored_on(corpus, straight, tmp_path):
    data = shutil.copytree(corpus / "data", tmp_path / "data")
    shutil.copy(data / "fineweb_train_000000.bin", data / "fineweb_val_000000.bin")
    (data / "manifest.json").unlink()
    arguments = ["--config", corpus / "run.toml", "--data", data, "--run-dir", tmp_path / "run"]
    done = train(*arguments)
    assert done.returncode == 0, done.stderr
    scores = [
        json.loads((run / "summary.json").read_text())["scores"]["roundtrip, plain"]
        for run in (tmp_path / "run", straight)
    ]
    assert scores[0]["tokens"] != scores[1]["tokens"]
    artifacts = [(run / "artifact.bin").read_bytes() for run in (tmp_path / "run", straight)]
    assert artifacts[0] == artifacts[1]


def test_calibration_makes_the_artifact_better_and_can_be_left_out(corpus, straight):
    runs = [corpus / "calibrated", corpus / "nearest"]
    for run, tokens in zip(runs, (1536, 0), strict=True):
        arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
        arguments += ["--attention-bits", 3, "--mlp-bits", 3, "--calibration-tokens", tokens]
        done = train(*arguments)
        assert done.returncode == 0, done.stderr
        assert losses(run) == losses(straight)
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    assert [summary["calibration"]["tokens"] for summary in summaries] == [1536, 0]
    weights = [load(run / "artifact.bin")[1] for run in runs]
    differ = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert differ == {"qo_bank", "kv_bank", "up_bank", "down_bank"}
    calibrated, nearest = (summary["scores"]["roundtrip, plain"]["bpb"] for summary in summaries)
    assert calibrated < nearest


def test_an_artifact_is_coarsened_until_it_fits_and_no_further(corpus, straight):
    free = json.loads((straight / "summary.json").read_text())
    assert free["total_bytes"] < free["size_limit"]
    assert free["artifact"]["factor"] <= 1
    limit = free["total_bytes"] - free["artifact_bytes"] // 4
    run = corpus / "tight"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    done = train(*arguments, "--size-limit", limit)
    assert done.returncode == 0, done.stderr
    tight = json.loads((run / "summary.json").read_text())
    assert tight["artifact"]["factor"] > free["artifact"]["factor"]
    room = limit - tight["code_bytes"]
    assert 0.98 * room < tight["artifact_bytes"] <= room


def test_over_the_size_limit_is_a_failure_after_saving(corpus):
    run = corpus / "fat"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    done = train(*arguments, "--size-limit", "1000", "--iterations", "2")
    assert done.returncode == 1
    assert "1,000" in done.stderr
    assert (run / "summary.json").exists()
    assert (run / "artifact.bin").exists()
