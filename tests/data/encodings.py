"""A stand-in for tiktoken's documented interface: a vocabulary of all bytes and a few pairs."""

import sys
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

PAIRS = (b"ba", b"da", b" b", "中".encode())


class Encoding:
    """Ids 0-255 are bytes, then `PAIRS`, an absent token, and the end of text."""

    name, _pat_str, eot_token, n_vocab = "gpt2", r"\S+|\s+", 261, 262
    special_tokens_set = frozenset({"<|endoftext|>"})

    def __init__(self, *made: object, **given: object) -> None:
        self.given = given

    def encode_single_token(self, text: str) -> int:
        assert text == "<|endoftext|>"
        return self.eot_token

    def decode_single_token_bytes(self, token: int) -> bytes:
        if token == 260:
            raise KeyError(token)
        return bytes([token]) if token < 256 else PAIRS[token - 256]

    def encode_ordinary(self, text: str) -> list[int]:
        raw, ids = text.encode(), []
        while raw:
            pair = next((each for each in PAIRS if raw.startswith(each)), None)
            ids.append(raw[0] if pair is None else 256 + PAIRS.index(pair))
            raw = raw[len(pair or b"x") :]
        return ids


def documents_of(texts: Sequence[str]) -> np.ndarray:
    """Return the tokens of documents, uint16, the end of text before each."""
    ids = ([Encoding.eot_token, *Encoding().encode_ordinary(text)] for text in texts)
    return np.array([token for document in ids for token in document], np.uint16)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``import tiktoken`` give the stand-in."""

    def get_encoding(name: str) -> Encoding:
        if name != "gpt2":
            raise OSError("no network\nsecond line")
        return Encoding()

    module = SimpleNamespace(get_encoding=get_encoding, Encoding=Encoding)
    monkeypatch.setitem(sys.modules, "tiktoken", module)  # pyright: ignore[reportArgumentType]
