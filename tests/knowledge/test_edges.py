"""Edges from a data folder to a file to a run, or one line that says why not."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from artifact.submission.bundle import EDGES, contents
from data.shards import shard_name, write_shard
from data.tokenizer import TOKENIZER_NAME, Tokenizer
from errors import InputError
from files import PROJECT
from knowledge.__main__ import main
from knowledge.edges import edges_of_run, place, read_edges
from knowledge.transitions import KINDS
from settings import Settings
from tests.knowledge.conftest import VOCAB_SIZE

ROWS = 64


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with edges of every kind."""
    made = tmp_path_factory.mktemp("data")
    text = np.minimum(np.random.default_rng(1).geometric(0.02, 9000), VOCAB_SIZE - 1)
    write_shard(made / shard_name("train", 0), text[:5000].astype(np.uint16))
    write_shard(made / shard_name("train", 1), text[5000:].astype(np.uint16))
    (made / TOKENIZER_NAME).write_bytes(tokenizer.path.read_bytes())
    assert main(["edges", "--data", str(made), "--rows", str(ROWS)]) == 0
    return made


def run_of(folder: Path, kind: str = "information", **changes: Any) -> tuple[Settings, Any]:
    values = {"data": folder, "bigram_rows": kind, "bigram_vocab_size": ROWS} | changes
    inputs = SimpleNamespace(
        tokenizer=folder / TOKENIZER_NAME, fingerprint="0" * 64, vocab_size=VOCAB_SIZE
    )
    return Settings(**values), inputs


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_reads_the_edges_of_its_data_folder(folder: Path, kind: str) -> None:
    settings, inputs = run_of(folder, kind)
    pairs, fingerprint = edges_of_run(settings, inputs)
    assert pairs.shape == (2, settings.num_edges) == (2, 48 if kind == "mixed" else 62)
    keys = pairs[0].astype(np.int64) * VOCAB_SIZE + pairs[1]
    assert (np.diff(keys) > 0).all()
    assert len(fingerprint) == 64
    assert fingerprint != inputs.fingerprint


def test_the_fingerprint_tells_one_set_of_edges_from_another(folder: Path, tmp_path: Path) -> None:
    settings, inputs = run_of(folder)
    _, first = edges_of_run(settings, inputs)
    assert edges_of_run(settings, inputs)[1] == first
    known = json.loads((folder / "information.edges").read_text())
    free = sorted({*range(VOCAB_SIZE)} - {known["predecessors"][-1]})[-1]
    known["predecessors"][-1] = max(free, known["predecessors"][-1] + 1) % VOCAB_SIZE
    other = tmp_path / "other.edges"
    other.write_text(json.dumps(known))
    assert edges_of_run(*run_of(folder, edges=other))[1] != first
    inputs.fingerprint = ""  # of ranks that read no shards
    assert edges_of_run(settings, inputs)[1] == ""


def test_two_runs_of_the_command_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    arguments = ["edges", "--data", str(folder), "--rows", str(ROWS), "--out", str(tmp_path)]
    assert main(arguments) == 0
    for name in (f"{kind}.edges" for kind in KINDS):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert main([*arguments, "--tokens", "4000"]) == 0
    name = "mixed.edges"
    assert (tmp_path / name).read_bytes() != (folder / name).read_bytes()


def test_what_a_run_cannot_use_is_one_line(folder: Path, tmp_path: Path) -> None:
    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=match):
            edges_of_run(*run_of(folder, **changes))

    known = json.loads((folder / "information.edges").read_text())
    path = tmp_path / "a.edges"

    def damaged(match: str, **parts: Any) -> None:
        path.write_text(json.dumps(known | parts))
        refused(match, edges=path)

    refused(
        "no such file; make it with the project's python -m knowledge edges",
        edges=tmp_path / "none",
    )
    refused("holds 62 pairs by information.* needs 126 by information", bigram_vocab_size=128)
    refused("pairs by mixed.* by information", edges=folder / "mixed.edges")
    damaged("of tokenizer aaaaaaaa; the run needs", tokenizer="a" * 64)
    damaged("its pairs are not in order", tokens=known["tokens"][::-1])
    damaged("its pairs are not in order", tokens=[5] * 62, predecessors=[5] * 62)
    damaged("tokens without predecessors", tokens=known["tokens"][:-1])
    damaged("less than or equal|less than", tokens=[*known["tokens"][:-1], 2**16])
    damaged("beyond the vocabulary", tokens=[*known["tokens"][:-1], VOCAB_SIZE])
    damaged("kind", kind="none")


def test_edges_are_made_of_what_is_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edges", "--data", str(tmp_path)]) == 2
    assert main(["edges", "--data", str(folder), "--rows", "100000"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_a_submission_takes_its_edges_along(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, _ = run_of(folder)
    files = contents(PROJECT, settings)
    assert "knowledge/edges.py" in files
    assert "edges =" not in files["presets/submission.toml"]
    bundled = tmp_path / "bundled.edges"
    bundled.write_text(files[EDGES])
    assert read_edges(bundled) == read_edges(folder / "information.edges")
    monkeypatch.setattr("knowledge.edges.BUNDLED", bundled)
    assert place(settings) == bundled
    digest = hashlib.sha256(bundled.read_bytes()).hexdigest()
    assert digest == hashlib.sha256((folder / "information.edges").read_bytes()).hexdigest()
    assert EDGES not in (without := contents(PROJECT, Settings()))
    assert "knowledge/edges.py" not in without
