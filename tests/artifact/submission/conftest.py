"""A run on a small corpus, made once, and a script that is not started for every folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from files import PROJECT
from tests.artifact.submission.runs import NETWORK, python, spoil


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefghij"), 4)) for _ in range(80)]
    for split, count in (("train", 100), ("val", 5)):
        texts = [json.dumps({"text": " ".join(draw.choice(words, 60))}) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(texts))
    arguments = ["--train", folder / "train.jsonl", "--val", folder / "val.jsonl"]
    arguments += ["--train-tokenizer", 300, "--out", folder / "data"]
    done = python("-m", "data", "prepare", *arguments)
    assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.fixture(scope="session")
def run(data: Path) -> Path:
    """The folder of a run from the tree, seed 1."""
    (data.parent / "run.toml").write_text(NETWORK)
    folder = data.parent / "run1"
    arguments = ["--config", data.parent / "run.toml", "--data", data, "--seed", 1]
    done = python(PROJECT / "train.py", *arguments, "--run-dir", folder)
    assert done.returncode == 0, done.stderr
    # As of a clean checkout, whatever this one is.
    spoil(folder, "environment.json", git_dirty=False)
    return folder


@pytest.fixture(autouse=True)
def no_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the script for the first folder only, because that trains a network."""
    monkeypatch.setattr("artifact.submission.submit.first_steps", lambda *given: None)
