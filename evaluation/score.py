"""Sums of a score, kept on the device, and what may listen to each token's."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.tokenizer import ByteTable
from errors import InputError
from runtime.ranks import World

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
Record = Callable[[Tensor, Tensor], None]


class Tokens(Protocol):
    """A split as evaluation reads it; `data.shards.TokenStream` is one."""

    def __len__(self) -> int: ...

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count), (count,) integers."""
        ...


@dataclass(frozen=True)
class Score:
    """The score of a split.

    Attributes:
        nats: mean negative log-likelihood a token.
        bpb: bits a byte of text: ``nats / ln 2 * tokens / bytes``, whatever the tokenizer.
        tokens: targets scored.
        bytes: of text that they stand for (see `data.tokenizer.ByteTable`).
        seconds: of wall clock, rank 0's.
    """

    nats: float
    bpb: float
    tokens: int
    bytes: int
    seconds: float


class Tally:
    """Adds up nats, targets and bytes in fp64 on the device, which never waits for the host.

    Args:
        byte_table: of the split's tokenizer.
        world: the ranks; each has a tally, and ``score`` adds them.
        record: told of every target as it is scored: places in the split (N,) int64, nats (N,).
    """

    def __init__(self, byte_table: ByteTable, world: World, record: Record | None = None) -> None:
        self.world, self.record = world, record
        self.count_bytes = _byte_counter(byte_table, world.device)
        self.sums = torch.zeros(3, dtype=torch.float64, device=world.device)
        self.begin = time.perf_counter()

    def add(self, tokens: Tensor, nats: Tensor, places: Tensor, is_new: Tensor) -> None:
        """Take in the last S targets of some windows.

        Args:
            tokens: (B, T + 1), targets included.
            nats: (B, S).
            places: (B, S) of the targets in the split.
            is_new: (B, S), which of them this window scores.
        """
        scored = nats.size(1)
        expected, previous = tokens[:, -scored:], tokens[:, -scored - 1 : -1]
        for index, amounts in enumerate((nats, is_new, self.count_bytes(previous, expected))):
            self.sums[index] += amounts.double().where(is_new, 0).sum()
        if self.record:
            self.record(places[is_new], nats[is_new])

    def score(self) -> Score:
        """The score over all ranks, the same on each.

        Raises:
            InputError: the targets stand for no text.
        """
        nats, tokens, byte_count = self.world.sum_(self.sums).tolist()
        elapsed = time.perf_counter() - self.begin if self.world.is_main else 0.0
        seconds = self.world.sum_(self.sums.new_tensor([elapsed])).item()
        if byte_count == 0:
            raise InputError(
                f"the {tokens:.0f} tokens of the split stand for no text; give another split"
            )
        bpb = nats / math.log(2) / byte_count
        return Score(nats / tokens, bpb, int(tokens), int(byte_count), seconds)


def _byte_counter(table: ByteTable, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """`ByteTable.count` on the device: (previous, targets) -> bytes of each target."""
    base, leading_space, boundary = (
        torch.from_numpy(column).to(device)
        for column in (table.base, table.leading_space, table.boundary)
    )
    return lambda previous, targets: base[targets] + (leading_space[targets] & ~boundary[previous])


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy without waiting for the device, which pageable memory would do."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
