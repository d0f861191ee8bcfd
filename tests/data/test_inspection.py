"""Inspection counts right and finds what is wrong in any byte."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data.inspection import examine, show
from data.prepare import Options, prepare
from data.readers import corpus
from data.shards import shard_name, write_shard
from errors import InputError


@pytest.fixture
def folder(
    tmp_path: Path, documents: list[str], model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr("data.prepare.LEAST_SHARD_TOKENS", 1)
    for name, texts in (("train", documents[:3]), ("val", documents[3:5])):
        for index, text in enumerate(texts):
            (tmp_path / f"{name}{index}.txt").write_text(text)
    train, val = (corpus(tuple(sorted(tmp_path.glob(f"{name}*")))) for name in ("train", "val"))
    options = Options(model_path, shard_tokens=100)
    prepare(train, val, options, tmp_path / "out", Console(quiet=True))
    return tmp_path / "out"


def test_the_counts_are_the_documents(
    folder: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("data.inspection.CHECK_TOKENS", 7)
    train, val = examine(folder, None).splits
    sizes = [len(text.encode()) for text in documents[:5]]
    assert (train.documents, train.text_bytes, train.source_bytes) == (3, *[sum(sizes[:3])] * 2)
    assert (val.documents, val.text_bytes, val.source_bytes) == (2, *[sum(sizes[3:])] * 2)
    assert train.shards == -(-train.tokens // 100)


def test_the_table_says_it_all(folder: Path):
    console = Console(record=True, width=200)
    facts = examine(folder, None)
    show(folder, facts, console)
    text = console.export_text()
    for split in facts.splits:
        for number in (split.tokens, split.documents, split.text_bytes):
            assert f"{number:,}" in text
    assert "vocabulary 400" in text
    assert "kind prepare" in text


def test_a_narrow_terminal_gets_whole_numbers(folder: Path):
    out = Console(width=30, file=io.StringIO(), soft_wrap=True)
    show(folder, examine(folder, None), out)
    said = out.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "split train, shards " in said and "split val, shards " in said
    assert "\u2026" not in said
    assert "train train0.txt, train1.txt, train2.txt, val val0.txt, val1.txt" in said


def test_a_changed_token_is_found_by_its_hash(folder: Path):
    path = folder / shard_name("train", 0)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not the file that manifest\.json records"):
        examine(folder, None)


def test_an_id_outside_the_vocabulary_is_found_without_a_manifest(folder: Path):
    (folder / "manifest.json").unlink()
    examine(folder, None)
    write_shard(folder / shard_name("val", 0), np.array([1, 400], dtype=np.uint16))
    with pytest.raises(InputError, match="token 1 has id 400"):
        examine(folder, None)


def test_another_tokenizer_is_refused(folder: Path):
    model = folder / "tokenizer.model"
    train = corpus((folder.parent / "train0.txt", folder.parent / "train1.txt"))
    val = corpus((folder.parent / "val0.txt",))
    other = folder.parent / "other"
    prepare(train, val, Options(350), other, Console(quiet=True))
    model.write_bytes((other / "tokenizer.model").read_bytes())
    with pytest.raises(InputError, match="not the tokenizer"):
        examine(folder, None)


def test_an_absent_or_unfinished_folder_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no such data folder"):
        examine(tmp_path / "absent", None)
    for path in folder.glob("*val*"):
        path.unlink()
    with pytest.raises(InputError, match=r"no \*val\*.bin"):
        examine(folder, None)
