"""Bits per byte of a split, plain or by sliding window, on all ranks.

Every token but the split's first is a target and is scored exactly once. Window 0 covers the first
``seq_len`` targets and scores them all; each later window ends ``stride`` targets further on and
scores only what is new, so its targets see at least ``seq_len - stride`` tokens before them. The
last window ends with the split, with as much context as any other. Plain evaluation is
``stride == seq_len``.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.shards import TokenStream
from data.tokenizer import ByteTable
from errors import InputError
from training.world import World

ScoreFunction = Callable[[Tensor, Tensor], Tensor]


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


@dataclass(frozen=True)
class Windows:
    """Which targets each window covers and which of them it scores.

    Token ``i`` of the split is the target of token ``i - 1``; targets are 1 ... ``targets``.
    """

    targets: int
    seq_len: int
    stride: int

    def __len__(self) -> int:
        return 1 + max(0, math.ceil((self.targets - self.seq_len) / self.stride))

    def starts(self, indices: np.ndarray) -> np.ndarray:
        """Each window's first input; its inputs are the ``seq_len`` tokens from there."""
        return np.minimum(indices * self.stride, max(0, self.targets - self.seq_len))

    def scored_before(self, indices: np.ndarray) -> np.ndarray:
        """The last target that an earlier window scores; all later ones are new."""
        return np.where(indices == 0, 0, self.seq_len + (indices - 1) * self.stride)

    def share(self, rank: int, ranks: int) -> tuple[int, int]:
        """The contiguous windows [first, last) of a rank."""
        return len(self) * rank // ranks, len(self) * (rank + 1) // ranks


@torch.inference_mode()
def evaluate(
    score_fn: ScoreFunction,
    stream: TokenStream,
    byte_table: ByteTable,
    *,
    seq_len: int,
    stride: int,
    batch_windows: int,
    world: World,
    device: torch.device,
    max_tokens: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Score a split; every rank calls it, and every rank gets the same result.

    The ranks share the windows, and only the sums of three numbers pass between them. The device
    never waits for the host: sums stay on it, in fp64, until the end.

    Args:
        score_fn: (inputs (B, T) int32, targets (B, S) int32) -> nats (B, S) of the last S <= T
            positions, from a causal model. It sees two shapes: (1, T) with S = T for window 0 and
            (batch_windows, T) with S = stride for the others; only the latter if stride == T.
        stream: the split.
        byte_table: of its tokenizer.
        seq_len: T, tokens of context.
        stride: 1 to ``seq_len``.
        batch_windows: windows a call.
        world: the ranks.
        device: where ``score_fn`` works.
        max_tokens: score only the first so many targets; 0 scores all.
        progress: told (windows begun, windows in all) of this rank after each call.

    Raises:
        InputError: an impossible stride or batch, a split without a target, or targets that stand
            for no text.
    """
    if not 1 <= stride <= seq_len or batch_windows < 1 or max_tokens < 0:
        raise InputError(
            f"evaluation with stride {stride}, {batch_windows} windows a batch and at most "
            f"{max_tokens} tokens: choose a stride of 1 to {seq_len} (the sequence length), a "
            "batch of 1 or more and a limit of 0 (none) or more"
        )
    if len(stream) < 2:
        raise InputError(f"a split of {len(stream)} tokens has nothing to score; give a longer one")
    begin = time.perf_counter()
    targets = len(stream) - 1
    windows = Windows(min(targets, max_tokens or targets), seq_len, stride)
    count_bytes = _byte_counter(byte_table, device)
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    first, last = windows.share(world.rank, world.size)
    for batch, scored in _batches(windows, first, last, batch_windows):
        tokens, is_new = _load(stream, windows, batch, last, device)
        expected, previous = tokens[:, -scored:], tokens[:, -scored - 1 : -1]
        nats = score_fn(tokens[:, :-1].contiguous(), expected.contiguous())
        is_new = is_new[:, -scored:]
        for index, amounts in enumerate((nats, is_new, count_bytes(previous, expected))):
            sums[index] += amounts.double().where(is_new, 0).sum()
        if progress:
            progress(min(int(batch[-1]) + 1, last) - first, last - first)
    total_nats, tokens_scored, total_bytes = world.sum_(sums).tolist()
    elapsed = time.perf_counter() - begin if world.is_main else 0.0
    seconds = world.sum_(sums.new_tensor([elapsed])).item()
    return _score(total_nats, int(tokens_scored), int(total_bytes), seconds)


def _score(total_nats: float, tokens: int, byte_count: int, seconds: float) -> Score:
    if byte_count == 0:
        raise InputError(f"the {tokens} tokens of the split stand for no text; give another split")
    nats = total_nats / tokens
    return Score(nats, nats / math.log(2) * tokens / byte_count, tokens, byte_count, seconds)


def _batches(
    windows: Windows, first: int, last: int, size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Windows [first, last) in batches, with the number of positions that each scores.

    The last batch runs past ``last`` to keep its shape.
    """
    if first == 0 < last and windows.stride < windows.seq_len:
        yield np.zeros(1, np.int64), windows.seq_len
        first = 1
    for begin in range(first, last, size):
        yield np.arange(begin, begin + size), windows.stride


def _load(
    stream: TokenStream, windows: Windows, batch: np.ndarray, last: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Tokens (B, T + 1) int32 of the windows, and which of their targets (B, T) are new.

    Windows overlap, so the tokens travel once, as one span, and are spread out on the device.
    Windows from ``last`` on repeat the tokens of the one before it, none of them new to them; what
    lies behind the last target is token 0.
    """
    starts = windows.starts(np.minimum(batch, last - 1))
    begin, end = int(starts[0]), int(starts[-1]) + windows.seq_len + 1
    span = np.zeros(end - begin, np.int32)
    known = stream.read(begin, min(end, windows.targets + 1) - begin)
    span[: len(known)] = known
    window_starts = _to_device(starts, device)[:, None]
    places = window_starts + torch.arange(windows.seq_len + 1, device=device)
    tokens = _to_device(span, device)[places - begin]
    target, scored = places[:, 1:], _to_device(windows.scored_before(batch), device)[:, None]
    return tokens, (target > scored) & (target <= windows.targets)


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy without waiting for the device, which pageable memory would do."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _byte_counter(table: ByteTable, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """`ByteTable.count` on the device: (previous, targets) -> bytes of each target."""
    base, leading_space, boundary = (
        torch.from_numpy(column).to(device)
        for column in (table.base, table.leading_space, table.boundary)
    )
    return lambda previous, targets: base[targets] + (leading_space[targets] & ~boundary[previous])
