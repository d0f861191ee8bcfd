"""Shards keep what was written, read across borders, and refuse what is not whole."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data.shards import HEADER_BYTES, TokenStream, read_header, shard_name, write_shard
from errors import InputError


def write(folder: Path, *lengths: int) -> np.ndarray:
    """Shards of these lengths holding 0, 1, 2, ...; returns all tokens."""
    tokens = np.arange(sum(lengths), dtype=np.uint16)
    for index, part in enumerate(np.split(tokens, np.cumsum(lengths)[:-1])):
        write_shard(folder / shard_name("train", index), part)
    return tokens


def test_a_shard_is_the_public_format_byte_for_byte(tmp_path: Path):
    write_shard(tmp_path / "s.bin", np.array([1, 258, 65535], dtype=np.uint16))
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, 3
    body = bytes([1, 0, 2, 1, 255, 255])
    assert (tmp_path / "s.bin").read_bytes() == header.tobytes() + body


def test_tokens_that_uint16_cannot_hold_are_refused(tmp_path: Path):
    with pytest.raises(TypeError):
        write_shard(tmp_path / "s.bin", np.array([70000]))
    assert not list(tmp_path.iterdir())


def test_reads_across_shard_borders_equal_slices(tmp_path: Path):
    tokens = write(tmp_path, 5, 1, 7)
    stream = TokenStream.open(tmp_path, "train", 13)
    assert len(stream) == 13
    for start in range(14):
        for count in range(14 - start):
            read = stream.read(start, count)
            assert read.dtype == np.uint16
            np.testing.assert_array_equal(read, tokens[start : start + count])


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (0, 14), (13, 1)])
def test_reading_outside_the_stream_is_an_index_error(tmp_path: Path, start: int, count: int):
    write(tmp_path, 13)
    with pytest.raises(IndexError):
        TokenStream.open(tmp_path, "train", 13).read(start, count)


def test_other_names_are_read_in_order_and_splits_kept_apart(tmp_path: Path):
    for name, token in (("my_val_0.bin", 9), ("b_train.bin", 2), ("a_train.bin", 1)):
        write_shard(tmp_path / name, np.array([token], dtype=np.uint16))
    assert TokenStream.open(tmp_path, "train", 10).read(0, 2).tolist() == [1, 2]
    assert TokenStream.open(tmp_path, "val", 10).read(0, 1).tolist() == [9]


def test_a_split_is_a_word_of_a_name(tmp_path: Path):
    """U3: "medieval" was validation, and a file of both splits was trained and validated on."""
    names = ("medieval_train_0.bin", "pretrain_val_0.bin", "Training1.bin", "VALID-2.bin", "x.bin")
    for token, name in enumerate((*names, "trainval.bin")):
        write_shard(tmp_path / name, np.array([token], dtype=np.uint16))
    assert sorted(TokenStream.open(tmp_path, "train", 10).read(0, 2).tolist()) == [0, 2]
    assert sorted(TokenStream.open(tmp_path, "val", 10).read(0, 2).tolist()) == [1, 3]
    write_shard(tmp_path / "train_val.bin", np.array([1], dtype=np.uint16))
    for split in ("train", "val"):
        with pytest.raises(InputError, match=r"train_val.bin: named for training and for val"):
            TokenStream.open(tmp_path, split, 10)


def test_a_large_shard_is_mapped_and_not_loaded(tmp_path: Path):
    path = tmp_path / "train.bin"
    write_shard(path, np.zeros(1 << 24, dtype=np.uint16))
    tracemalloc.start()
    try:
        TokenStream([path], 1).read(1 << 23, 2049)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def damage(path: Path, offset: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = value.to_bytes(4, "little", signed=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(0, 7, "magic number 7"), (4, 2, "version 2"), (8, -1, "promises -1"), (8, 0, "promises 0")],
)
def test_a_wrong_header_is_refused(tmp_path: Path, offset: int, value: int, message: str):
    path = tmp_path / shard_name("train", 0)
    write(tmp_path, 10)
    damage(path, offset, value)
    with pytest.raises(InputError, match=message):
        read_header(path)


@pytest.mark.parametrize(
    ("size", "message"),
    [(HEADER_BYTES + 19, "truncated"), (HEADER_BYTES + 22, "too long"), (100, "too few"), (0, "0")],
)
def test_a_wrong_length_is_refused(tmp_path: Path, size: int, message: str):
    path = tmp_path / shard_name("train", 0)
    write(tmp_path, 10)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    with pytest.raises(InputError, match=message):
        TokenStream.open(tmp_path, "train", 10)


def test_missing_and_empty_folders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such data folder"):
        TokenStream.open(tmp_path / "absent", "train", 10)
    with pytest.raises(InputError, match=r"holds no \*val\*.bin"):
        TokenStream.open(tmp_path, "val", 10)


def test_a_token_outside_the_vocabulary_is_found_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path, 5, 7)
    monkeypatch.setattr("data.shards.CHECK_TOKENS", 2)
    TokenStream.open(tmp_path, "train", 12).check_tokens()
    with pytest.raises(InputError, match=r"fineweb_train_000001\.bin: token 5 has id 10"):
        TokenStream.open(tmp_path, "train", 10).check_tokens()
