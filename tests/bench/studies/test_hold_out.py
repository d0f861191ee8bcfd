"""Documents held out for tuning: each goes to one side, or to none."""

import json
import lzma
from pathlib import Path

import pytest

from bench.__main__ import main as bench
from bench.studies import hold_out


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.xz"])
def test_documents_go_to_one_side_or_none(tmp_path, monkeypatch, suffix):
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"held": [1, 4], "dropped": [2]}))
    monkeypatch.setattr(hold_out, "LIST", listed)
    lines = [f'{{"text": "document {i}"}}\n'.encode() for i in range(6)]
    source = tmp_path / f"documents{suffix}"
    source.write_bytes(lzma.compress(b"".join(lines)) if suffix.endswith("xz") else b"".join(lines))
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    assert bench(["hold_out", str(source), "--train", str(train), "--held", str(held)]) == 0
    assert train.read_bytes() == lines[0] + lines[3] + lines[5]
    assert held.read_bytes() == lines[1] + lines[4]


def test_another_file_than_the_list_is_of_is_refused(tmp_path, capsys):
    short = tmp_path / "short.jsonl"
    short.write_text('{"text": "a"}\n')
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    for source, problem in ((short, "has 1 documents"), (tmp_path / "none.jsonl", "no such file")):
        assert bench(["hold_out", str(source), "--train", str(train), "--held", str(held)]) == 2
        assert problem in capsys.readouterr().err
    assert not train.exists()


@pytest.mark.parametrize(("train", "held"), [("a", "a"), ("all", "a"), ("a", "../x/all")])
def test_no_file_is_written_over_another(tmp_path, monkeypatch, capsys, train, held):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    Path("all").write_text("kept")
    assert bench(["hold_out", "all", "--train", train, "--held", held]) == 2
    assert "give three files" in capsys.readouterr().err
    assert Path("all").read_text() == "kept" and not Path("a").exists()


def test_the_list_holds_no_document_twice():
    held, dropped = hold_out.places(hold_out.LIST)
    assert (len(held), len(dropped), held & dropped) == (1242, 1567, set())
