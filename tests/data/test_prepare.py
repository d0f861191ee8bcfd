"""Text becomes the same folder whatever the parallelism, whole or not at all."""

import errno
import gzip
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

import data.encoding
from data.documents import Corpus
from data.folder import read_manifest
from data.prepare import Options, prepare
from data.readers import corpus
from data.shards import TokenStream
from data.tokenizer import Tokenizer
from errors import InputError

Corpora = tuple[Corpus, Corpus]


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=200, highlight=False, markup=False)


@pytest.fixture
def corpora(tmp_path: Path, documents: list[str]) -> Corpora:
    """180 documents to train on, in two files of two kinds, and 20 to validate on."""
    lines = [json.dumps({"text": text}) + "\n" for text in documents]
    (tmp_path / "a.jsonl").write_text("".join(lines[:100]))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[100:180]).encode()))
    (tmp_path / "val.jsonl").write_text("".join(lines[180:]))
    train = corpus((tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"))
    return train, corpus((tmp_path / "val.jsonl",))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shards_hold_every_document_behind_bos(
    tmp_path: Path, corpora: Corpora, console: Console, model_path: Path, documents: list[str]
):
    out = tmp_path / "out"
    prepare(*corpora, Options(model_path, shard_tokens=1000), out, console)
    tokenizer = Tokenizer(out / "tokenizer.model")
    train = TokenStream.open(out, "train", tokenizer.vocab_size)
    val = TokenStream.open(out, "val", tokenizer.vocab_size)
    assert train.read(0, len(train)).tolist() == list(tokenizer.encode_documents(documents[:180]))
    assert val.read(0, len(val)).tolist() == list(tokenizer.encode_documents(documents[180:]))
    manifest = read_manifest(out)
    assert manifest is not None
    made = manifest["splits"]["train"]
    assert [shard["tokens"] for shard in made["files"].values()][:-1] == [1000] * (
        len(train) // 1000
    )
    assert (made["tokens"], made["documents"]) == (len(train), 180)
    assert made["source_bytes"] == sum(len(text.encode()) for text in documents[:180])


def test_workers_change_no_byte(
    tmp_path: Path, corpora: Corpora, console: Console, monkeypatch: pytest.MonkeyPatch
):
    for workers, characters in ((1, 1 << 20), (2, 500)):
        monkeypatch.setattr(data.encoding, "CHUNK_CHARACTERS", characters)
        options = Options(tokenizer=400, shard_tokens=3000, workers=workers)
        prepare(*corpora, options, tmp_path / f"out{workers}", console)
    one, two = contents(tmp_path / "out1"), contents(tmp_path / "out2")
    assert len(one) > 4
    assert one == two


def test_a_trained_tokenizer_has_seen_the_training_text_alone(
    tmp_path: Path, corpora: Corpora, console: Console
):
    train, _ = corpora
    for name, text in (("v1.txt", "bada " * 50), ("v2.txt", "zyxw " * 5000)):
        (tmp_path / name).write_text(text)
        val = corpus((tmp_path / name,))
        prepare(train, val, Options(tokenizer=400), tmp_path / f"out_{name}", console)
    models = [tmp_path / f"out_{name}" / "tokenizer.model" for name in ("v1.txt", "v2.txt")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_second_time_nothing_is_done(
    tmp_path: Path, corpora: Corpora, console: Console, model_path: Path
):
    out = tmp_path / "out"
    prepare(*corpora, Options(model_path, workers=1), out, console)
    before = out.stat().st_ino
    prepare(*corpora, Options(model_path, workers=2), out, console)
    assert out.stat().st_ino == before
    assert "already there" in console.export_text()


@pytest.mark.parametrize(
    "change", ["text", "validation text", "tokenizer", "shard length", "order"]
)
def test_another_input_or_option_is_not_already_there(
    tmp_path: Path, corpora: Corpora, console: Console, model_path: Path, change: str
):
    (train, val), out, options = corpora, tmp_path / "out", Options(model_path)
    prepare(train, val, options, out, console)
    if "text" in change:
        with (train if change == "text" else val).paths[0].open("a") as file:
            file.write('{"text": "more"}\n')
    elif change == "tokenizer":
        options = Options(400)
    elif change == "shard length":
        options = Options(model_path, shard_tokens=1000)
    else:
        train = corpus(train.paths[::-1])
    with pytest.raises(InputError, match="not made from the same inputs"):
        prepare(train, val, options, out, console)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_line_late_in_a_file_leaves_no_folder(
    tmp_path: Path, corpora: Corpora, console: Console, model_path: Path, workers: int
):
    train, val = corpora
    with train.paths[0].open("a") as file:
        file.write('{"no": "text"}\n')
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=r'a\.jsonl:101: no field "text"'):
        prepare(train, val, Options(model_path, workers=workers), tmp_path / "out", console)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(400, shard_tokens=0), "--shard-tokens 0"),
        (Options(400, shard_tokens=999), "--shard-tokens 999: give 1000 to 2147483647"),
        (Options(400, workers=0), "--workers 0"),
        (Options(65536), "vocabulary 65536: choose one from 261 to 65535"),
        (Options(260), "vocabulary 260: choose one from 261 to 65535"),
        (Options(Path("absent.model")), "absent.model: no such tokenizer"),
    ],
)
def test_impossible_options_are_refused_before_any_work(
    tmp_path: Path, corpora: Corpora, console: Console, options: Options, message: str
):
    with pytest.raises(InputError, match=message):
        prepare(*corpora, options, tmp_path / "out", console)


def test_processes_without_shared_memory_are_one_line(
    tmp_path: Path, corpora: Corpora, console: Console, model_path: Path, monkeypatch
):
    def fails(*arguments: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(data.encoding, "ProcessPoolExecutor", fails)
    options = Options(model_path, workers=2)
    with pytest.raises(InputError, match=r"without /dev/shm \(Read-only.*; give --workers 1"):
        prepare(*corpora, options, tmp_path / "out", console)
    prepare(*corpora, Options(model_path, workers=1), tmp_path / "out", console)


def test_skipped_records_are_in_the_manifest_and_the_summary(
    tmp_path: Path, corpora: Corpora, console: Console, model_path: Path
):
    train, val = corpora
    with train.paths[0].open("a") as file:
        file.write('{"no": "text"}\n')
    files = corpus(train.paths, skip_bad=True), corpus(val.paths, skip_bad=True)
    prepare(*files, Options(model_path), tmp_path / "out", console)
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    skipped = manifest["splits"]["train"]["skipped"]
    assert skipped["count"] == 1
    assert skipped["first"][0].startswith("a.jsonl:101: no field")
    assert "skipped" not in manifest["splits"]["val"]
    assert manifest["source"]["skip_bad"] is True
    assert "train: 1 bad records skipped; the first:" in console.export_text()


def test_parts_of_a_long_text_are_one_document(
    tmp_path: Path, console: Console, model_path: Path, documents: list[str], monkeypatch
):
    for name, texts in (("a", documents[:20]), ("b", documents[20:22])):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    splits = [corpus((tmp_path / f"{name}.txt",)) for name in "ab"]
    prepare(splits[0], splits[1], Options(model_path), tmp_path / "whole", console)
    for size in (2000, 400):
        monkeypatch.setattr("data.documents.PART_CHARACTERS", size)
        prepare(splits[0], splits[1], Options(model_path), tmp_path / f"parts{size}", console)
    # A tokenizer trained here merges nothing over ends of lines; elsewhere more tokens may remain.
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts2000")
    tokenizer = Tokenizer(model_path)
    stream = TokenStream.open(tmp_path / "parts400", "train", tokenizer.vocab_size)
    tokens = stream.read(0, len(stream)).tolist()
    assert tokens.count(tokenizer.bos_id) == 1
    assert tokenizer.decode(tokens) == "\n".join(documents[:20])
