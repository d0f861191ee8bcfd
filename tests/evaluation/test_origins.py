"""What a run's summary says of its code, its data and its process."""

import hashlib
from pathlib import Path

import pytest
import torch

from data.inputs import open_scored
from data.sentencepiece_model import minimal_model
from data.shards import write_shard
from evaluation.origins import Origins, merged
from runtime import watching
from runtime.ranks import World
from settings import Settings
from tests.evaluation.network import tokens_of_documents

CPU = World.single(torch.device("cpu"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder without training shards."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(minimal_model(300, 1))
    write_shard(folder / "a_val_0.bin", tokens_of_documents(100, seed=1))
    return folder


def test_code_and_data_are_recorded_and_what_is_read_elsewhere_is_found(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "_watch", None)
    script, notes = tmp_path / "train_gpt.py", tmp_path / "notes.txt"
    script.write_text("one")
    notes.write_text("x = 1")
    origins = Origins(script, Settings(data=data))
    inputs = open_scored(data, None, 300, 1)
    facts = origins.facts(CPU, inputs)
    assert facts["code_modules"] == {"train_gpt.py": hashlib.sha256(b"one").hexdigest()}
    assert facts["data"] == {
        name: hashlib.sha256((data / name).read_bytes()).hexdigest()
        for name in ("tokenizer.model", "a_val_0.bin")
    }
    observed = facts["observed"]
    assert isinstance(observed, dict)
    assert observed["code"] == []
    assert str(notes) not in observed["files"]
    notes.read_text()
    script.write_text("two")
    observed = origins.facts(CPU, inputs)["observed"]
    assert isinstance(observed, dict)
    assert str(notes) in observed["files"]
    assert observed["code"] == ["train_gpt.py"]


def test_findings_of_ranks_are_told_once():
    ranks = [{"files": ["a", "b"], "text": []}, {"files": ["b", "c"], "network": ["d"]}]
    assert merged(ranks) == {"files": ["a", "b", "c"], "network": ["d"], "text": []}
