"""A run whose corpus has a region of noise reads text in its place, and says so."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from data.shards import shards_of, write_shard
from runtime import checkpoint
from runtime.records import read_log
from tests.train.runs import begin, train
from training.loop import SKIP_NOISE


@pytest.fixture(scope="module")
def spoilt(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus with noise in its second fifth."""
    folder = tmp_path_factory.mktemp("spoilt") / "data"
    shutil.copytree(corpus / "data", folder)
    (shard,) = shards_of(folder, "train")
    tokens = np.fromfile(shard, np.uint16)[512:]
    fifth = len(tokens) // 5
    tokens[fifth : 2 * fifth] = np.random.default_rng(0).integers(300, size=fifth)
    write_shard(shard, tokens)
    (folder / "manifest.json").unlink()
    return folder


def run(corpus: Path, data: Path, folder: Path, *options: str) -> tuple[dict, list[int], str]:
    """The summary, the counts of noise in the log, and what was said."""
    given = ["--config", corpus / "run.toml", "--data", data, "--run-dir", folder, *options]
    done = train(*given, "--iterations", "30", "--eval-stride", "0")
    assert done.returncode == 0, done.stderr
    counts = [e["value"] for e in read_log(folder / "log.jsonl") if e.get("lever") == SKIP_NOISE]
    return json.loads((folder / "summary.json").read_text()), counts, done.stdout


def test_noise_is_left_out_where_agents_of_set_frontier_steer(corpus, spoilt, tmp_path):
    frontier = ("--swarm", "--swarm-agents", "frontier", "--swarm-every", "5", "--probes", "0")
    summary, counts, said = run(corpus, spoilt, tmp_path / "run", *frontier)
    assert counts == sorted(set(counts)) and 0 < counts[-1] <= summary["noise_windows"]
    assert f"data: {summary['noise_windows']} windows were noise" in said
    yoked = ("--swarm-yoke", str(tmp_path / "run"))
    summary, counts, said = run(corpus, spoilt, tmp_path / "yoked", *frontier, *yoked)
    assert (summary["noise_windows"], counts) == (0, [])


def test_it_can_be_asked_for_and_is_off_otherwise(corpus, spoilt, tmp_path):
    summary, counts, _ = run(corpus, spoilt, tmp_path / "off")
    assert (summary["noise_windows"], counts) == (0, [])
    summary, _, _ = run(corpus, spoilt, tmp_path / "on", "--no-swarm", "--skip-noise")
    assert summary["noise_windows"] > 0


def test_a_healthy_corpus_has_none(corpus, tmp_path):
    summary, counts, said = run(corpus, corpus / "data", tmp_path / "run", "--skip-noise")
    assert (summary["noise_windows"], counts) == (0, []) and "noise" not in said


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_run_counts_on(corpus, spoilt, tmp_path, ranks: int):
    """Over all ranks; what two ranks began, one takes up."""
    given = ["--config", corpus / "run.toml", "--data", spoilt, "--no-swarm", "--skip-noise"]
    long = ["--iterations", "60", "--eval-stride", "0"]
    assert train(*given, *long, "--run-dir", tmp_path / "straight").returncode == 0
    whole = json.loads((tmp_path / "straight" / "summary.json").read_text())["noise_windows"]
    run = tmp_path / "killed"
    process = begin(*given, *long, "--run-dir", run, "--checkpoint-minutes", "1e-9", ranks=ranks)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        newest = checkpoint.latest(run / "checkpoints")
        if newest is not None and newest.name >= "step_000020":
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    before = checkpoint.load(newest, "cpu")[1]["noise"]
    assert 0 < before < whole
    assert train("--resume", run).returncode == 0
    assert json.loads((run / "summary.json").read_text())["noise_windows"] == whole
