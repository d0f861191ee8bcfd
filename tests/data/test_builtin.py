"""The default corpus is this Python's library, split the same way everywhere."""

import platform
import sysconfig
from pathlib import Path

import pytest
from rich.console import Console

from data.builtin import make_builtin, read_source, split_files, validates
from data.documents import refuse
from data.folder import read_manifest
from data.shards import TokenStream
from data.tokenizer import Tokenizer
from errors import InputError

LIBRARY = Path(sysconfig.get_path("stdlib"))


def test_the_split_is_of_whole_files_without_tests_and_machine_facts():
    train, val = split_files(LIBRARY)
    chosen = {path.relative_to(LIBRARY).as_posix() for path in (*train.paths, *val.paths)}
    assert not set(train.paths) & set(val.paths)
    assert {"argparse.py", "json/decoder.py", "pydoc_data/topics.py"} <= chosen
    assert not [name for name in chosen if "/test" in name or "site-packages" in name]
    assert not [name for name in chosen if "sysconfigdata" in name or name.startswith("encodings")]
    assert 0.02 < val.size / (train.size + val.size) < 0.06


def test_a_path_alone_decides_what_validates(tmp_path: Path):
    names = [f"pkg/module_{number}.py" for number in range(5000)]
    share = sum(validates(Path(name)) for name in names) / len(names)
    assert share == pytest.approx(0.04, abs=0.01)
    for name in ("pdb.py", "argparse.py"):
        (tmp_path / name).write_text("pass")
    train, val = split_files(tmp_path)
    assert [path.name for path in train.paths] == ["argparse.py"]
    assert [path.name for path in val.paths] == ["pdb.py"]


def test_a_source_is_read_in_the_encoding_it_declares(tmp_path: Path):
    path = tmp_path / "latin.py"
    path.write_bytes("# coding: latin-1\n# grün\n".encode("latin-1"))
    assert [document.text for document in read_source(path, refuse)] == [
        "# coding: latin-1\n# grün\n"
    ]


@pytest.mark.slow
def test_the_corpus_is_made_once(builtin: Path):
    console, out = Console(record=True, width=200), builtin
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest["source"]["python"].endswith(platform.python_version())
    assert Tokenizer(out / "tokenizer.model").vocab_size == 1024
    assert len(TokenStream.open(out, "train", 1024)) > 2_000_000
    assert len(TokenStream.open(out, "val", 1024)) > 50_000
    before = out.stat().st_ino
    make_builtin(out, 1, console)
    assert out.stat().st_ino == before
    assert "already there" in console.export_text()


def test_a_python_without_sources_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match="without its library's sources"):
        make_builtin(tmp_path / "out", 1, Console())
