"""Edges: the pairs of tokens that own rows of the bigram table, and their file."""

import hashlib
import json
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from data.inputs import Inputs
from data.vocabulary import read_tokenizer
from errors import InputError
from model.config import BigramRows
from reading.structured import Form, read_json
from settings import Settings

BUNDLED = Path(__file__).with_name("bundled.edges")  # only in a submission's one file
BYTES = 1 << 20
MAKE = "make it with the project's python -m knowledge edges"

Tokens = list[Annotated[int, Field(ge=0, lt=2**16)]]


class Edges(Form):
    """What a file holds.

    Attributes:
        kind: how the pairs were chosen.
        tokenizer: SHA-256 of its file.
        tokens, predecessors: of each pair, ascending by token, then by predecessor.
    """

    kind: BigramRows
    tokenizer: str
    tokens: Tokens
    predecessors: Tokens

    @property
    def pairs(self) -> np.ndarray:
        """(2, E) int32: tokens and predecessors."""
        return np.array((self.tokens, self.predecessors), np.int32)


def text_of(edges: Edges) -> str:
    """Return the text of a file."""
    known = edges.model_dump(include=set(Edges.model_fields))
    return json.dumps(known, separators=(",", ":")) + "\n"


def read_edges(path: Path) -> Edges:
    """Read a file.

    Raises:
        InputError: it is missing, of another form, or its pairs are not in order.
    """
    found = read_json(path, Edges, MAKE, limit=BYTES)
    if len(found.tokens) != len(found.predecessors):
        raise InputError(f"{path}: has tokens without predecessors; {MAKE}")
    first, second = found.pairs.astype(np.int64)
    if (np.diff(first << 16 | second) <= 0).any():
        raise InputError(f"{path}: its pairs are not in order; {MAKE}")
    return found


def place(settings: Settings) -> Path:
    """Return the file that a run reads."""
    kind = f"{settings.bigram_rows}.edges"
    return settings.edges or (BUNDLED if BUNDLED.exists() else (settings.data or Path()) / kind)


def edges_of_run(settings: Settings, inputs: Inputs) -> tuple[np.ndarray, str]:
    """Return a run's pairs (2, E) int32, and the fingerprint of all data that it reads.

    Raises:
        InputError: the file is missing or damaged, or of another kind, tokenizer or size.
    """
    path, whose = place(settings), read_tokenizer(inputs.tokenizer).sha256
    found = read_edges(path)
    wanted = settings.bigram_rows, whose, settings.num_edges
    if (found.kind, found.tokenizer, len(found.tokens)) != wanted:
        rows = f"--rows {settings.bigram_vocab_size}"
        raise InputError(
            f"{path}: holds {len(found.tokens):,} pairs by {found.kind}, of tokenizer "
            f"{found.tokenizer:.8}; the run needs {settings.num_edges:,} by "
            f"{settings.bigram_rows}, of {whose:.8}; {MAKE} {rows}"
        )
    if max(found.tokens + found.predecessors) >= inputs.vocab_size:
        raise InputError(f"{path}: names tokens beyond the vocabulary; {MAKE}")
    both = inputs.fingerprint + text_of(found)
    whole = hashlib.sha256(both.encode()).hexdigest()
    return found.pairs, whole if inputs.fingerprint else ""
