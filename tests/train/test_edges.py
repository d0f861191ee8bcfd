"""A run whose bigram table has rows of edges: trained, exported, scored alone, adapted, resumed."""

import json
from pathlib import Path

import pytest
import torch

import train as program
from artifact.restore import restore
from evaluation.__main__ import main as evaluate
from knowledge.__main__ import main as knowledge
from knowledge.edges import read_edges
from tests.small import one_thread  # noqa: F401 - runs are in this process

TTT = ["--ttt-enabled", "--ttt-chunk-tokens", "512", "--ttt-epochs", "1"]


@pytest.fixture(scope="module")
def edges(corpus: Path) -> Path:
    """Files of edges of the whole text, and in the folder ``less`` of a part of it."""
    out = corpus / "edges"
    command = ["edges", "--data", str(corpus / "data"), "--rows", "64", "--out"]
    assert knowledge([*command, str(out)]) == 0
    assert knowledge([*command, str(out / "less"), "--tokens", "3000"]) == 0
    return out


@pytest.fixture(scope="module")
def run(corpus: Path, edges: Path) -> Path:
    folder = corpus / "with-edges"
    torch.set_num_threads(1)
    arguments = ["--config", str(corpus / "run.toml"), "--data", str(corpus / "data")]
    arguments += ["--bigram-rows", "mixed", "--edges", str(edges / "mixed.edges"), *TTT]
    arguments += ["--iterations", "3", "--eval-stride", "0", "--calibration-tokens", "0"]
    assert program.main([*arguments, "--run-dir", str(folder)]) == 0
    return folder


def test_the_artifact_alone_has_the_edges_and_the_scores_of_the_run(
    corpus: Path, run: Path, edges: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = run / "artifact.bin"
    restored = restore(artifact, 32, torch.device("cpu"))
    assert restored.edges is not None
    known = read_edges(edges / "mixed.edges")
    assert restored.edges.tolist() == known.pairs.tolist()
    (edges / "mixed.edges").rename(edges / "hidden")
    try:
        assert evaluate(["all", str(artifact), "--data", str(corpus / "data")]) == 0
    finally:
        (edges / "hidden").rename(edges / "mixed.edges")
    printed = capsys.readouterr().out
    scores = json.loads((run / "summary.json").read_text())["scores"]
    of_artifact = {name: row["bpb"] for name, row in scores.items() if "roundtrip" in name}
    assert len(of_artifact) == 2
    for bpb in of_artifact.values():
        assert f"bpb {bpb:.6f} " in printed


def test_a_run_goes_on_with_its_own_edges_alone(
    run: Path, edges: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = edges / "less" / "mixed.edges"
    assert program.main(["--resume", str(run), "--edges", str(other)]) == 2
    assert "was trained on other data" in capsys.readouterr().err
    moved = (edges / "mixed.edges").rename(edges / "moved.edges")
    assert program.main(["--resume", str(run), "--edges", str(moved), "--no-ttt-enabled"]) == 0
    moved.rename(edges / "mixed.edges")
