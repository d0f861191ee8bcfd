"""The command line: a graph to a file to its inspection; one line and code 2 for what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.tokenizer import Tokenizer
from files import PROJECT
from knowledge.scores import read_scores
from tests import warm
from tests.knowledge.graphs import write_tsv


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
    return warm.run("-m", "knowledge", *arguments, environment=environment)


@pytest.fixture
def graph(tmp_path: Path) -> list[str | Path]:
    """The flags that name its files."""
    rows = [(str(node), f"the {word}") for node, word in enumerate(["plant", "animal"] * 20)]
    edges = [(node, "hypernym", "root") for node, _ in rows]
    nodes = write_tsv(tmp_path / "nodes.tsv", ("id", "label"), ("root", "entity"), *rows)
    header = ("source", "relation", "target")
    edges = write_tsv(tmp_path / "edges.tsv", header, *edges, ("0", "hypernym", "nowhere"))
    return ["--nodes", nodes, "--edges", edges]


def test_a_graph_to_scores_to_their_inspection(
    tmp_path: Path, graph: list[str | Path], tokenizer: Tokenizer
) -> None:
    out = tmp_path / "out.scores"
    done = run("distil", *graph, "--tokenizer", tokenizer.path, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "41 nodes, 40 edges: PartOf 40" in done.stdout
    assert "1 edges left out" in done.stdout
    for step in ("nodes", "edges", "ranking", "words"):
        assert step in done.stdout
    entity = tokenizer.encode("a entity")[1]
    assert read_scores(out).dense()[entity] == 1
    named = run("inspect", out, "--tokenizer", tokenizer.path)
    assert f"{out.stat().st_size} bytes of at most 732" in named.stdout
    assert " 1.000  ▁entity\n" in named.stdout
    assert f" 1.000  {entity}\n" in run("inspect", out).stdout


def test_a_list_to_scores(tmp_path: Path, tokenizer: Tokenizer) -> None:
    listed, out = tmp_path / "list.json", tmp_path / "out.scores"
    listed.write_text(json.dumps({"300": 1.0, "301": 0.2}))
    done = run("pack", listed, "--tokenizer", tokenizer.path, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_scores(out).ids.tolist() == [300, 301]


def test_what_is_wrong_is_one_line_and_code_2(
    tmp_path: Path, graph: list[str | Path], tokenizer: Tokenizer
) -> None:
    out, other = tmp_path / "out.scores", tmp_path / "other.model"
    other.write_bytes(tokenizer.path.read_bytes() + b"\x22\x00")
    listed = tmp_path / "list.json"
    listed.write_text('{"300": 1.0}')
    run("pack", listed, "--tokenizer", tokenizer.path, "--out", tmp_path / "in.scores")
    absent = ["--nodes", tmp_path / "absent.tsv", *graph[2:]]
    flags = ["--tokenizer", tokenizer.path, "--out", out]
    for arguments in (
        ("distil", *absent, *flags),
        ("distil", *graph, "--tokenizer", tmp_path / "absent.model", "--out", out),
        ("distil", *graph, "--relations", tmp_path / "absent.toml", *flags),
        ("distil", *graph, *flags[:3], tmp_path / "nowhere" / "out.scores"),
        ("inspect", tmp_path / "absent.scores"),
        ("inspect", tmp_path / "in.scores", "--tokenizer", other),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert not out.exists()


def test_help_and_inspection_import_neither_torch_nor_scipy(tmp_path: Path) -> None:
    listing = (
        "import sys, runpy\n"
        "try: runpy.run_module('knowledge', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    print('code', end.code, {'torch', 'scipy', 'pyarrow'} & {*sys.modules})\n"
    )
    for arguments, code in ((["--help"], 0), (["inspect", str(tmp_path / "absent")], 2)):
        command = [sys.executable, "-c", listing, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
        assert f"code {code} set()" in done.stdout
