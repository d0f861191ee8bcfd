"""A folder is whole or absent, and never mistaken for another."""

from pathlib import Path

import numpy as np
import pytest

from data.folder import (
    MANIFEST_NAME,
    read_manifest,
)
from data.making import (
    already_made,
    describe_shard,
    whole_folder,
    write_manifest,
    write_source,
)
from data.shards import write_shard
from data.tokenizer import Tokenizer
from errors import InputError

SOURCE = {"kind": "test", "inputs": [1]}


BROKEN = {
    "{": "not JSON",
    "[]": "not a JSON object",
    "[" * 3000: "nested",
    '{"source": {}, "fingerprint": "x", "splits": {"train": {}}}': "splits.train.files",
    '{"splits": {"train": {"files": {"../../x": {"tokens": 1, "sha256": "a"}}}}}': "pattern",
    '{"splits": {"train": {"files": {"x": {"tokens": "1", "sha256": "a"}}}}}': "valid integer",
    '{"splits": {"train": {"files": {}, "source_bytes": []}}}': "source_bytes",
    '{"tokenizer": {"sha256": 3}}': "tokenizer.vocab_size",
    '{"source": 5}': "source",
}


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    out = tmp_path / "made"
    with whole_folder(out) as beside:
        write_shard(beside / "train.bin", np.arange(5, dtype=np.uint16))
        files = {"train.bin": describe_shard(beside / "train.bin")}
        write_manifest(beside, SOURCE, tokenizer, {"train": {"files": files}})
    return out


def test_a_failure_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "made") as beside:
        (beside / "half").write_text("x")
        assert not (tmp_path / "made").exists()
        _ = 1 // 0
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled(tmp_path: Path):
    (tmp_path / "made").mkdir()
    assert not already_made(tmp_path / "made", SOURCE)
    with whole_folder(tmp_path / "made") as beside:
        (beside / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "file").read_text() == "x"


def test_the_same_source_is_known_again_and_another_is_refused(folder: Path):
    assert already_made(folder, SOURCE)
    with pytest.raises(InputError, match="not made from the same inputs"):
        already_made(folder, {"kind": "test", "inputs": [2]})


def test_files_of_others_are_never_taken_for_ours(tmp_path: Path):
    (tmp_path / "thesis.doc").write_text("x")
    for out in (tmp_path, tmp_path / "thesis.doc"):
        with pytest.raises(InputError, match="not made from the same inputs"):
            already_made(out, SOURCE)


def test_a_lost_or_replaced_shard_is_noticed(folder: Path):
    write_shard(folder / "train.bin", np.arange(6, dtype=np.uint16))
    with pytest.raises(InputError, match=r"not the file that manifest\.json records"):
        already_made(folder, SOURCE)
    (folder / "train.bin").unlink()
    with pytest.raises(InputError, match=r"train.bin: no such file"):
        already_made(folder, SOURCE)


def test_a_broken_manifest_is_one_line(folder: Path):
    for content, fault in BROKEN.items():
        (folder / MANIFEST_NAME).write_text(content)
        with pytest.raises(InputError, match=rf"manifest\.json: .*{fault}.*; make"):
            read_manifest(folder)
    (folder / MANIFEST_NAME).unlink()
    (folder / MANIFEST_NAME).symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="is a link"):
        read_manifest(folder)


def test_a_folder_only_begun_is_not_complete(tmp_path: Path):
    write_source(tmp_path, SOURCE)
    with pytest.raises(InputError):
        already_made(tmp_path, SOURCE)
