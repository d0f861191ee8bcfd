"""Shards: the contest's file format for tokens, and a split's shards read as one array.

A shard is 256 little-endian int32 (magic, version, token count, zeros) and then that many
little-endian uint16 tokens: the format of llm.c's and modded-nanogpt's FineWeb files.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np

from errors import InputError
from files import atomic_write
from reading.regular import open_regular

MAGIC = 20240520
VERSION = 1
HEADER_INTS = 256
HEADER_BYTES = HEADER_INTS * 4
TOKEN = np.dtype("<u2")
MAX_VOCAB_SIZE = 65535
MAX_SHARD_TOKENS = 2**31 - 1
CHECK_TOKENS = 1 << 24

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
WORDS: dict[Split, set[str]] = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation"},
}


def shard_name(split: Split, index: int) -> str:
    """Return the public name of a split's ``index``-th shard."""
    return f"fineweb_{split}_{index:06d}.bin"


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Write uint16 ``tokens`` (count,) as one shard, whole or not at all.

    Raises:
        TypeError: the tokens are of a type that uint16 cannot hold safely.
    """
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    body = np.ascontiguousarray(tokens).astype(TOKEN, casting="safe", copy=False)
    with atomic_write(path) as file:
        file.write(header.tobytes())
        file.write(body.data)


def read_header(path: Path) -> int:
    """Return the number of tokens in a shard, its magic, version and length checked.

    Raises:
        InputError: the file is missing, or is not a whole shard.
    """
    with open_regular(path, "give a folder of token shards") as file:
        header = np.frombuffer(file.read(HEADER_BYTES), dtype=np.uint8)
    if header.size < HEADER_BYTES:
        raise InputError(f"{path}: {header.size} bytes are too few for a shard; make it again")
    magic, version, count = (int(number) for number in header.view("<i4")[:3])
    if magic != MAGIC:
        raise InputError(f"{path}: magic number {magic} instead of {MAGIC}: not a token shard")
    if version != VERSION:
        raise InputError(f"{path}: shard version {version}; this program reads version {VERSION}")
    if count <= 0:
        raise InputError(f"{path}: its header promises {count} tokens; make it again")
    _check_length(path, count)
    return count


def _check_length(path: Path, count: int) -> None:
    size, promised = path.stat().st_size, HEADER_BYTES + count * TOKEN.itemsize
    if size != promised:
        state = "truncated" if size < promised else "too long"
        raise InputError(
            f"{path}: {state}: {size:,} bytes, where its header's {count:,} tokens make "
            f"{promised:,}; make or download it again"
        )


def check_folder(folder: Path) -> None:
    """Raise InputError if there is no such data folder."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such data folder; the project's `python -m data builtin` makes one"
        )


def shards_of(folder: Path, split: Split) -> list[Path]:
    """Return a split's shards: ``*.bin`` with its word in the name, in order.

    Words are what is between other characters than letters: there is no "val" in "medieval".

    Raises:
        InputError: the folder is missing or holds no such shard, or a name has both words.
    """
    check_folder(folder)
    files = []
    for path in sorted(folder.glob("*.bin")):
        words = set(re.findall("[a-z]+", path.stem.lower()))
        splits = [each for each in SPLITS if words & WORDS[each]]
        if len(splits) > 1:
            raise InputError(f"{path}: named for training and for validation; rename it")
        files += [path] if split in splits else []
    if not files:
        raise InputError(
            f"{folder}: holds no *{split}*.bin, {split} as a word; the project's "
            "`python -m data prepare` makes them from text"
        )
    return files


class TokenStream:
    """A split's shards, memory-mapped and addressed as one array of uint16 tokens."""

    def __init__(self, files: Sequence[Path], vocab_size: int) -> None:
        """Check each header and map each file; no token is read yet.

        Raises:
            InputError: no file is given, or one is not a whole shard.
        """
        if not files:
            raise InputError("no token shards given")
        self.files = tuple(files)
        self.vocab_size = vocab_size
        self._shards = [_map_shard(path) for path in self.files]
        self._starts = [0, *accumulate(len(shard) for shard in self._shards)]

    @classmethod
    def open(cls, folder: Path, split: Split, vocab_size: int) -> "TokenStream":
        """Open the shards whose names have the word "train" or "val", in order of their names.

        Raises:
            InputError: the folder is missing or holds no such shard, or one is not whole.
        """
        return cls(shards_of(folder, split), vocab_size)

    def __len__(self) -> int:
        return self._starts[-1]

    def first(self, count: int) -> "TokenStream":
        """Return the stream of its first ``count`` tokens, or of all if it has fewer."""
        shorter = copy(self)
        shorter._starts = [min(start, count) for start in self._starts]
        return shorter

    def read(self, start: int, count: int) -> np.ndarray:
        """Return tokens [start, start + count) as uint16 (count,), across shard borders.

        Within one shard it is a read-only view of the file, without a copy.

        Raises:
            IndexError: the range reaches outside the stream.
        """
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens [{start}, {start + count}) of a stream of {len(self)}")
        parts = []
        index = bisect_right(self._starts, start) - 1
        while count > 0:
            part = self._shards[index][start - self._starts[index] :][:count]
            parts.append(part)
            start, count, index = start + len(part), count - len(part), index + 1
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, TOKEN)])

    def check_tokens(self) -> None:
        """Read every token once.

        Raises:
            InputError: a token's id is not below the vocabulary's size.
        """
        for path, shard in zip(self.files, self._shards, strict=True):
            for start in range(0, len(shard), CHECK_TOKENS):
                block = shard[start : start + CHECK_TOKENS]
                if int(block.max()) >= self.vocab_size:
                    first = int(np.argmax(block >= self.vocab_size))
                    raise InputError(
                        f"{path}: token {start + first:,} has id {block[first]}, but the "
                        f"vocabulary has {self.vocab_size}; give the tokenizer that made them"
                    )


def _map_shard(path: Path) -> np.ndarray:
    count = read_header(path)
    mapped = np.memmap(path, dtype=TOKEN, mode="r", offset=HEADER_BYTES, shape=(count,))
    # A plain view: numpy's memmap subclass makes each small slice several times slower.
    return mapped.view(np.ndarray)
