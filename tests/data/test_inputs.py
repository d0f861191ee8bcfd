"""A run reads what the manifest records, and says so where it does not."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from data import hashes
from data.inputs import open_inputs, open_scored, vocabulary_of
from data.making import (
    describe_shard,
    write_manifest,
)
from data.shards import Split, read_header, shard_name, write_shard
from data.tokenizer import Tokenizer
from errors import InputError
from files import sha256
from settings.load import load_settings

VOCAB, BOS = 400, 1


@pytest.fixture
def folder(tmp_path: Path, model_path: Path, documents: list[str], monkeypatch) -> Path:
    """A data folder of two training shards, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    out = tmp_path / "data"
    out.mkdir()
    shutil.copy(model_path, out / "tokenizer.model")
    tokenizer = Tokenizer(out / "tokenizer.model")
    splits = {}
    counts: dict[Split, int] = {"train": 2, "val": 1}
    for split, count in counts.items():
        for index in range(count):
            write_shard(out / shard_name(split, index), tokenizer.encode_documents(documents[:2]))
        files = {path.name: describe_shard(path) for path in sorted(out.glob(f"*{split}*"))}
        splits[split] = {"files": files}
    write_manifest(out, {"kind": "test"}, tokenizer, splits)
    return out


def swap_tokens(shard: Path) -> None:
    words = np.fromfile(shard, dtype="<u2")
    words[-2:] = words[-2:][::-1] + np.array([0, 0], dtype="<u2")
    words[-1] = 5 if words[-1] != 5 else 6
    words.tofile(shard)


def test_a_sound_folder_is_verified(folder: Path):
    inputs = open_inputs(folder, None, VOCAB, BOS)
    assert inputs.verified and inputs.tokenizer == folder / "tokenizer.model"
    assert len(inputs.train) == 2 * len(inputs.validation)
    (folder / "manifest.json").unlink()
    assert not open_inputs(folder, None, VOCAB, BOS).verified


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_changed_token_is_found_before_training(folder: Path, split: Split):
    """F5: flipped tokens trained and scored, though the manifest had the right hash."""
    shard = folder / shard_name(split, 0)
    swap_tokens(shard)
    with pytest.raises(InputError, match=rf"{shard.name}: not the file that manifest\.json"):
        open_inputs(folder, None, VOCAB, BOS)


def test_another_tokenizer_is_found(folder: Path, tmp_path: Path):
    """F5: a tokenizer with longer pieces counts more bytes than the text has."""
    model = (folder / "tokenizer.model").read_bytes()
    forged = tmp_path / "forged.model"
    place = model.rindex(b"ba")  # of a piece
    forged.write_bytes(model[:place] + b"xy" + model[place + 2 :])
    with pytest.raises(InputError, match=r"forged.model: not the file that manifest\.json"):
        open_scored(folder, forged, VOCAB, BOS)
    shutil.copy(forged, folder / "tokenizer.model")
    with pytest.raises(InputError, match=r"tokenizer.model: not the file that manifest\.json"):
        open_scored(folder, None, VOCAB, BOS)


def test_shards_more_or_fewer_than_recorded_are_found(folder: Path):
    shard = folder / shard_name("train", 1)
    extra = shutil.copy(shard, folder / shard_name("train", 2))
    with pytest.raises(InputError, match=f"{Path(extra).name}: not the file"):
        open_inputs(folder, None, VOCAB, BOS)
    Path(extra).unlink()
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard.name}: not the file"):
        open_inputs(folder, None, VOCAB, BOS)


def test_a_score_needs_no_training_shards(folder: Path):
    """Part 2, 7: an evaluation opened and read them."""
    for path in folder.glob("*train*"):
        path.unlink()
    assert open_scored(folder, None, VOCAB, BOS).verified
    with pytest.raises(InputError, match="train"):
        open_inputs(folder, None, VOCAB, BOS)


def test_a_shard_is_hashed_once_until_it_changes(folder: Path, monkeypatch):
    hashed: list[str] = []

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr(hashes, "sha256", counted)
    for _ in range(3):
        open_inputs(folder, None, VOCAB, BOS)
    assert sorted(hashed) == sorted(path.name for path in folder.glob("*.bin"))
    hashed.clear()
    shard = folder / shard_name("train", 1)
    shard.write_bytes(shard.read_bytes())
    open_inputs(folder, None, VOCAB, BOS)
    assert hashed == [shard.name]


def test_a_cache_that_is_broken_or_cannot_be_written_costs_time_only(folder: Path, monkeypatch):
    table = folder.parent / "cache" / "murmuration" / "sha256.json"
    open_inputs(folder, None, VOCAB, BOS)
    for content in ("{", "[]", '{"a": 1}'):
        table.write_text(content)
        open_inputs(folder, None, VOCAB, BOS)
        assert json.loads(table.read_text())
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    open_inputs(folder, None, VOCAB, BOS)


@pytest.mark.parametrize("name", ["tokenizer.model", shard_name("train", 1), shard_name("val", 0)])
def test_a_file_that_may_not_be_read_is_one_line(folder: Path, name: str, monkeypatch):
    """F9: chmod 000 ended in a PermissionError. Root may read everything, so the call refuses."""
    opened = os.open

    def refused(path, *rest, **more):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(InputError, match=rf"{name}: cannot be read \(Permission denied\); ") as no:
        open_inputs(folder, None, VOCAB, BOS)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize(
    ("tokens", "most"), [([1], 0), ([1] * 40, 0), ([0, 1, 2] * 20, 0), ([1] * 9 + [300] * 40, 8)]
)
def test_validation_without_text_is_refused_before_training(folder: Path, tokens, most):
    """F8: it was found after the last step."""
    write_shard(folder / shard_name("val", 0), np.array(tokens, dtype=np.uint16))
    (folder / "manifest.json").unlink()
    said = f"{len(tokens)} tokens of its validation split stand for no text"
    with pytest.raises(InputError, match=said) as refused:
        open_inputs(folder, None, VOCAB, BOS, most)
    assert "\n" not in str(refused.value)
    assert not most or open_inputs(folder, None, VOCAB, BOS, most + 1)


def test_the_fingerprint_is_that_of_the_contents(folder: Path, tmp_path: Path, monkeypatch):
    """U2: nothing in a run said which tokens it had seen."""
    found = open_inputs(folder, None, VOCAB, BOS).fingerprint
    copied = shutil.copytree(folder, tmp_path / "copied")
    assert open_inputs(copied, None, VOCAB, BOS).fingerprint == found
    (copied / "manifest.json").unlink()
    assert open_inputs(copied, None, VOCAB, BOS).fingerprint == found
    for split in ("train", "val"):
        changed = shutil.copytree(copied, tmp_path / split)
        swap_tokens(changed / shard_name(split, 0))
        assert open_inputs(changed, None, VOCAB, BOS).fingerprint not in ("", found)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert open_inputs(folder, None, VOCAB, BOS).fingerprint == ""


def test_the_vocabulary_is_the_tokenizer_s_unless_it_is_given(folder: Path):
    assert load_settings([], {}).vocabulary() == (None, None)
    assert load_settings(["--vocab-size", "500"], {}).vocabulary() == (500, None)
    inputs = open_inputs(folder, None, None, None)
    assert (inputs.vocab_size, inputs.bos_id) == (VOCAB, BOS)
    assert vocabulary_of(folder, None, None, None) == (VOCAB, BOS)
    settings = load_settings([], {"MURMURATION_BOS_ID": "7"}).with_vocabulary(VOCAB, BOS)
    assert settings.vocabulary() == (VOCAB, BOS) == (settings.vocab_size, settings.bos_id)


def test_a_tokenizer_of_another_vocabulary_is_refused_with_the_option(folder: Path):
    with pytest.raises(InputError, match=r"400 tokens.*is 1024; train with --vocab-size 400"):
        open_inputs(folder, None, 1024, None)
    with pytest.raises(InputError, match=r"BOS is token 1, not bos_id 3; give --bos-id 1"):
        open_inputs(folder, None, None, 3)


def test_a_run_is_told_what_its_scores_count(folder: Path, monkeypatch):
    assert open_inputs(folder, None, None, None).remarks == ()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["val"] |= {"source_bytes": 10, "scored_bytes": 12}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (said,) = open_inputs(folder, None, None, None).remarks
    assert said.startswith("val: scores count 12 bytes where the text has 10")
    monkeypatch.setitem(sys.modules, "data.fidelity", None)
    assert open_inputs(folder, None, None, None).remarks == (), "as in a submission"


def test_only_a_host_s_first_rank_hashes(folder: Path, monkeypatch):
    swap_tokens(folder / shard_name("train", 0))
    monkeypatch.setenv("LOCAL_RANK", "1")
    open_inputs(folder, None, VOCAB, BOS)


def test_a_shard_is_read_only_where_it_is_a_file(tmp_path: Path):
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(InputError, match="is no regular file"):
        read_header(tmp_path / "x.bin")
