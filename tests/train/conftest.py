"""A data folder, and a run on it, made once a session."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from files import PROJECT
from tests.train.runs import NETWORK, train


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder made by the project's own command, and ``run.toml`` beside it."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 6))) for _ in range(80)]
    for split, documents in (("train", 150), ("val", 15)):
        texts = [" ".join(draw.choices(words, k=60)) for _ in range(documents)]
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    arguments = ["--train", folder / "train.jsonl", "--val", folder / "val.jsonl"]
    arguments += ["--train-tokenizer", 300, "--out", folder / "data"]
    subprocess.run(
        [sys.executable, "-m", "data", "prepare", *map(str, arguments)],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (folder / "run.toml").write_text(NETWORK)
    return folder


@pytest.fixture(scope="session")
def straight(corpus: Path) -> Path:
    """The run folder of 20 steps without interruption."""
    run = corpus / "straight"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    done = train(*arguments, PICTURES="drawn")
    assert done.returncode == 0, done.stderr
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    return run
