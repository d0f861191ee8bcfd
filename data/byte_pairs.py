"""Vocabularies of the tiktoken package, such as GPT-2's: a token is bytes, not characters.

The package is needed to make such a tokenizer's file and to encode text, and is imported only then.
"""

import base64
import binascii
import hashlib
import importlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from data.shards import MAX_VOCAB_SIZE
from data.tokenizer import ENCODINGS, ByteTable
from errors import InputError
from reading.regular import read_bytes
from reading.structured import Form, checked, parse_json

FILE_BYTES = 1 << 24
LONGEST = 1 << 14  # bytes of a token
REMEDY = "give a file that data prepare wrote, or the name of an encoding"
Encoding = Any
"""A ``tiktoken.Encoding``; the package may be absent where types are checked."""


class Vocabulary(Form):
    """What a file holds.

    Attributes:
        name: of the encoding.
        pattern: regular expression that splits text.
        bos: the token that begins documents.
        special: ids of special tokens, by their text.
        tokens: bytes of each token in base 64; None for special and missing ones.
    """

    name: str
    pattern: str
    bos: int
    special: dict[str, int]
    tokens: list[str | None]


class BytePairTokenizer:
    """An encoding of tiktoken; ``<|endoftext|>`` marks the beginning of documents."""

    def __init__(self, path: Path) -> None:
        """Load a file that `save` wrote, or the encoding of tiktoken that ``path`` names.

        Raises:
            InputError: it is neither, is damaged, or has more tokens than a uint16 shard can hold.
        """
        self.path = path
        if path.is_file() or str(path) not in ENCODINGS:
            self.content = read_bytes(path, FILE_BYTES, REMEDY)
        else:
            self.content = content_of(named(str(path)))
        try:
            self._stored = checked(parse_json(self.content), Vocabulary)
            texts = [base64.b64decode(each or "", validate=True) for each in self._stored.tokens]
        except (ValueError, binascii.Error) as error:
            raise InputError(f"{path}: no byte-pair vocabulary ({error}); {REMEDY}") from None
        self.bytes_of_tokens = texts
        self.vocab_size, self.bos_id = len(texts), self._stored.bos
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        if not 0 <= self.bos_id < self.vocab_size or texts[self.bos_id]:
            raise InputError(f"{path}: token {self.bos_id} cannot begin documents; {REMEDY}")
        bytes_alone = {bytes([each]) for each in range(256)}
        if max(map(len, texts)) > LONGEST or not bytes_alone <= set(texts):
            raise InputError(f"{path}: its tokens are too long or lack a byte; {REMEDY}")
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise InputError(
                f"{path}: vocabulary of {self.vocab_size}; a shard holds at most {MAX_VOCAB_SIZE}"
            )

    def save(self, path: Path) -> None:
        """Write a file that needs no package to read."""
        path.write_bytes(self.content)

    def byte_table(self) -> ByteTable:
        """Return how many bytes each token counts: its own; special tokens count none."""
        base = np.array([len(text) for text in self.bytes_of_tokens], dtype=np.int16)
        return ByteTable(base, np.zeros(len(base), np.bool_), base == 0)

    def encode(self, text: str) -> list[int]:
        """Return token ids of ``text``, without BOS; text of special tokens is plain text."""
        return self._encoding.encode_ordinary(text)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Return the documents' tokens in order, uint16, BOS before each."""
        ids = ([self.bos_id, *self.encode(text)] for text in texts)
        return np.fromiter(chain.from_iterable(ids), dtype=np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``; special tokens stand for nothing."""
        return self.raw(ids).decode("utf-8", "replace")

    def raw(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ``ids``, which may begin or end within a character."""
        return b"".join(self.bytes_of_tokens[token] for token in ids)

    @cached_property
    def _encoding(self) -> Encoding:
        texts = self.bytes_of_tokens
        return package().Encoding(
            self._stored.name,
            pat_str=self._stored.pattern,
            mergeable_ranks={text: token for token, text in enumerate(texts) if text},
            special_tokens=self._stored.special,
        )


def package() -> ModuleType:
    """Return the module tiktoken. Raises InputError if it is not installed."""
    try:
        return importlib.import_module("tiktoken")
    except ImportError:
        raise InputError(
            f"package tiktoken is needed for {', '.join(ENCODINGS)}; pip install tiktoken"
        ) from None


def named(name: str) -> Encoding:
    """Return an encoding by its name; the package may fetch it.

    Raises:
        InputError: the package is not installed, or cannot get the encoding.
    """
    tiktoken = package()
    try:
        return tiktoken.get_encoding(name)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"tiktoken cannot get the encoding {name}: {reason:.200}") from None


def content_of(encoding: Encoding) -> bytes:
    """Return an encoding as a file's content, the same for the same encoding."""
    special = {
        text: encoding.encode_single_token(text) for text in sorted(encoding.special_tokens_set)
    }
    stored = {
        "name": encoding.name,
        "pattern": encoding._pat_str,  # README of tiktoken, "Extending tiktoken"
        "bos": encoding.eot_token,
        "special": special,
        "tokens": [_stored(encoding, token, special.values()) for token in range(encoding.n_vocab)],
    }
    return json.dumps(stored).encode() + b"\n"


def _stored(encoding: Encoding, token: int, special: Iterable[int]) -> str | None:
    """Return a token's bytes in base 64; None if it is special or there is no such token."""
    if token in special:
        return None
    try:
        return base64.b64encode(encoding.decode_single_token_bytes(token)).decode()
    except KeyError:
        return None
