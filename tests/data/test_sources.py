"""Folders, patterns and the standard input stand for files."""

import gzip
import io
import os
import sys
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from data.readers import corpus
from data.sources import STDIN, found
from errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.jsonl.gz", "deep/c.txt", ".hidden/d.txt", "notes.md", "deep/.e.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path / "in"


def names(folder: Path, *given: Path) -> list[str]:
    with found(given, [folder / "b.txt"], folder / "out") as (train, val):
        assert val == (folder / "b.txt",)
        return [path.relative_to(folder).as_posix() for path in train]


def test_a_folder_stands_for_its_files_and_a_pattern_for_its_matches(folder: Path):
    assert names(folder, folder) == ["a.jsonl.gz", "b.txt", "deep/c.txt"]
    assert names(folder, folder / "**" / "*.txt") == ["b.txt", "deep/c.txt"]
    assert names(folder, folder / "b.txt", folder / "*.txt", folder) == [
        "b.txt",
        "a.jsonl.gz",
        "deep/c.txt",
    ]
    (folder / "[a].txt").write_text("x")
    assert names(folder, folder / "[a].txt") == ["[a].txt"], "a file of that name goes first"


def test_what_stands_for_no_file_is_one_line(folder: Path):
    (folder / "empty").mkdir()
    for given, said in (("empty", "holds no file that can be read"), ("*.csv", "no file matches")):
        with pytest.raises(InputError, match=said):
            names(folder, folder / given)
    with pytest.raises(InputError, match="can be read once"):
        names(folder, STDIN, STDIN)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'\n {"text": "x"}\n', "stdin.jsonl"),
        (b'[{"text": "x"}]', "stdin.json"),
        (b"x", "stdin.txt"),
        (gzip.compress(b'{"text": "x"}\n'), "stdin.jsonl.gz"),
    ],
    ids=["lines", "one", "text", "compressed"],  # gzip writes the time
)
def test_the_standard_input_is_read_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, name: str
):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    with found([STDIN], [], tmp_path / "deep" / "out") as (train, _):
        assert [path.name for path in train] == [name]
        assert [document.text for document in corpus(train).documents()] == ["x"]
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_named_pipe_is_read_as_the_standard_input_is(tmp_path: Path):
    """A shell's ``<(command)`` is one."""
    os.mkfifo(tmp_path / "pipe")
    writer = Thread(target=(tmp_path / "pipe").write_bytes, args=(b"some text",))
    writer.start()
    with found([tmp_path / "pipe"], [], tmp_path / "out") as (train, _):
        assert [path.name for path in train] == ["pipe0.txt"]
        assert [document.text for document in corpus(train).documents()] == ["some text"]
    writer.join()
