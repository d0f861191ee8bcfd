"""Text in trouble: what a loader reads in place of its corpus."""

from pathlib import Path
from typing import Protocol

import numpy as np


class Text(Protocol):
    """What a loader reads; `data.shards.TokenStream` is one."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Where it lies."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, count: int) -> np.ndarray:
        """Return tokens [start, start + count), (count,) integers."""
        ...


class Garbled:
    """A text of which one region is uniform noise.

    Args:
        text: the rest.
        first: token of the region.
        noise: its tokens.
    """

    def __init__(self, text: Text, first: int, noise: np.ndarray) -> None:
        self.text, self.files, self.first, self.noise = text, text.files, first, noise

    def __len__(self) -> int:
        return len(self.text)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return tokens [start, start + count)."""
        tokens = np.array(self.text.read(start, count))
        begin, end = max(start, self.first), min(start + count, self.first + len(self.noise))
        if begin < end:
            tokens[begin - start : end - start] = self.noise[begin - self.first : end - self.first]
        return tokens


class Repeated:
    """A text of which a share of what is read is always one of the same few pieces.

    Args:
        text: the rest.
        pieces: first tokens of the pieces.
        one_in: so many reads there is one of a piece.
        seed: decides which.
    """

    def __init__(self, text: Text, pieces: list[int], one_in: int, seed: int) -> None:
        self.text, self.files, self.pieces = text, text.files, pieces
        self.one_in, self.seed = one_in, seed

    def __len__(self) -> int:
        return len(self.text)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return ``count`` tokens, those at ``start`` or a piece's."""
        (drawn,) = np.random.SeedSequence([self.seed, start]).generate_state(1)
        if drawn % self.one_in == 0:
            piece = self.pieces[int(drawn) // self.one_in % len(self.pieces)]
            start = min(piece, len(self) - count)
        return self.text.read(start, count)


class Sorted:
    """A text whose documents come by their length, shortest first.

    Args:
        text: whose documents.
        bos_id: token that each begins with.
    """

    def __init__(self, text: Text, bos_id: int) -> None:
        self.files, tokens = text.files, text.read(0, len(text))
        bounds = np.unique([0, *np.flatnonzero(tokens == bos_id), len(tokens)])
        order = np.argsort(np.diff(bounds), kind="stable")
        self.tokens = np.concatenate([tokens[bounds[i] : bounds[i + 1]] for i in order])

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return tokens [start, start + count)."""
        return self.tokens[start : start + count]


class InOrder:
    """Windows one after another, in place of a `data.order.BlockOrder`, whose pass is one block."""

    def __init__(self, tokens: int) -> None:
        self.tokens, self.blocks, self.length = tokens, 1, tokens - 1

    def window(self, counter: int, seq_len: int) -> int:
        """Return the first token of a window."""
        return counter % ((self.tokens - 1) // seq_len) * seq_len
