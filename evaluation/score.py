"""What is scored, on which ranks, and the sums of a score, which stay on the device."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.tokenizer import ByteTable
from errors import InputError
from runtime.ranks import World

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
Record = Callable[[Tensor, Tensor, Tensor], None]
OnProgress = Callable[[int, int], None]


class Tokens(Protocol):
    """A sequence of tokens as evaluation reads it; `data.shards.TokenStream` is one."""

    def __len__(self) -> int: ...

    def read(self, start: int, count: int) -> np.ndarray:
        """Return tokens [start, start + count), (count,) integers."""
        ...


@dataclass(frozen=True)
class Split:
    """The tokens to score.

    Attributes:
        stream: the tokens; all but the first are targets.
        byte_table: bytes of each token of their tokenizer.
        max_tokens: score only the first so many targets; 0: all.
    """

    stream: Tokens
    byte_table: ByteTable
    max_tokens: int = 0

    @property
    def targets(self) -> int:
        """Return the number of targets to score."""
        most = len(self.stream) - 1
        return min(most, self.max_tokens or most)


@dataclass(frozen=True)
class Scoring:
    """The ranks that score a split, and two callbacks.

    Attributes:
        world: the ranks; what scores works on its device.
        progress: called with (parts done, parts in all) of this rank.
        record: called with each batch as it is scored: positions in the split (B, S) int64, nats
            (B, S), and which of them (B, S) count.
    """

    world: World
    progress: OnProgress | None = None
    record: Record | None = None


@dataclass(frozen=True)
class Score:
    """The score of a split.

    Attributes:
        nats: mean negative log-likelihood a token.
        bpb: bits a byte of text: ``nats / ln 2 * tokens / bytes``, whatever the tokenizer.
        tokens: targets scored.
        bytes: bytes of their text (see `data.tokenizer.ByteTable`).
        seconds: wall clock of rank 0.
        of_targets: (tokens,) fp32, the nats of each target in the split's order: what was summed.
    """

    nats: float
    bpb: float
    tokens: int
    bytes: int
    seconds: float
    of_targets: Tensor = field(default_factory=lambda: torch.empty(0), compare=False, repr=False)

    def row(self) -> dict[str, float]:
        """Return the five numbers by name."""
        names = ("nats", "bpb", "tokens", "bytes", "seconds")
        return {name: getattr(self, name) for name in names}


class Tally:
    """Sums nats, targets and bytes in fp64 on the device, without waiting for it.

    Args:
        split: that is scored.
        scoring: the ranks, each of which has a tally, and who sees each score.
    """

    def __init__(self, split: Split, scoring: Scoring) -> None:
        self.world, self.record = scoring.world, scoring.record
        self.count_bytes = _byte_counter(split.byte_table, self.world.device)
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.world.device)
        # By position in the split. Position 0 is no target: it takes what does not count.
        self.of_targets = torch.zeros(split.targets + 1, device=self.world.device)
        self.begin = time.perf_counter()

    def add(self, tokens: Tensor, nats: Tensor, positions: Tensor, is_new: Tensor) -> None:
        """Add the last S targets of some windows.

        Args:
            tokens: (B, T + 1), targets included.
            nats: (B, S).
            positions: (B, S) of the targets in the split.
            is_new: (B, S), which of them this window scores.
        """
        scored = nats.size(1)
        expected, previous = tokens[:, -scored:], tokens[:, -scored - 1 : -1]
        for index, amounts in enumerate((nats, is_new, self.count_bytes(previous, expected))):
            self.sums[index] += amounts.double().where(is_new, 0).sum()
        self.of_targets[positions.where(is_new, 0)] = nats.float()
        if self.record:
            self.record(positions, nats, is_new)

    def score(self) -> Score:
        """Return the score over all ranks, the same on each.

        Raises:
            InputError: the targets have no bytes of text.
        """
        nats, tokens, byte_count = self.world.sum_(self.sums).tolist()
        elapsed = time.perf_counter() - self.begin if self.world.is_main else 0.0
        seconds = self.world.sum_(self.sums.new_tensor([elapsed])).item()
        if byte_count == 0:
            raise InputError(
                f"the {tokens:.0f} tokens of the split stand for no text; give another split"
            )
        bpb, of_targets = nats / math.log(2) / byte_count, self.world.sum_(self.of_targets)[1:]
        return Score(nats / tokens, bpb, int(tokens), int(byte_count), seconds, of_targets)


def _byte_counter(table: ByteTable, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `ByteTable.count` on the device: (previous, targets) -> bytes of each target."""
    base, leading_space, boundary = (
        torch.from_numpy(column).to(device)
        for column in (table.base, table.leading_space, table.boundary)
    )
    return lambda previous, targets: base[targets] + (leading_space[targets] & ~boundary[previous])


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array without waiting for the device, as a copy of pageable memory would."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
