"""Batches of token windows: shuffled, the same for any number of ranks, resumed by one integer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from queue import SimpleQueue
from threading import Thread

import numpy as np
import torch
from torch import Tensor

from data.shards import TokenStream
from errors import InputError

STEPS_AHEAD = 2
STRIDE_CANDIDATES = 64


@dataclass(frozen=True)
class WindowOrder:
    """The order in which windows of ``seq_len`` tokens are visited: a pure function of a counter.

    A pass visits each of ``windows`` windows once. Window w covers the tokens
    [offset + w * seq_len, offset + (w + 1) * seq_len], the last of which is only a target. The
    j-th visit of pass p is w = (start + j * stride) mod windows; start, stride and offset are
    drawn from (seed, p). Pass 0 has offset 0; later passes cut the text elsewhere. So that every
    offset leaves room for all windows, a pass leaves out fewer than 2 * seq_len tokens.
    """

    tokens: int
    seq_len: int
    seed: int

    @property
    def windows(self) -> int:
        """Windows in a pass."""
        return max(1, self.tokens // self.seq_len - 1)

    def start(self, counter: int) -> int:
        """The first token of the ``counter``-th window since the start of training."""
        number, visit = divmod(counter, self.windows)
        offsets = min(self.seq_len, self.tokens - self.windows * self.seq_len)
        first, stride, offset = _draw_pass(self.seed, number, self.windows, offsets)
        return offset + (first + visit * stride) % self.windows * self.seq_len


@lru_cache(maxsize=8)
def _draw_pass(seed: int, number: int, windows: int, offsets: int) -> tuple[int, int, int]:
    """First window, stride and token offset of pass ``number``.

    Philox's raw output, unlike numpy's distributions, is promised never to change, and a resumed
    run may meet another numpy.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, number]))
    first, offset, *strides = (int(raw) for raw in bits.random_raw(2 + STRIDE_CANDIDATES))
    candidates = [1, *(1 + raw % max(1, windows - 1) for raw in strides)]
    stride = min(candidates, key=lambda candidate: unevenness(windows, candidate))
    return first % windows, stride, offset % offsets if number else 0


def unevenness(windows: int, stride: int) -> float:
    """How unevenly multiples of ``stride`` fill a ring of ``windows``; infinite if not coprime.

    It is the largest partial quotient of stride / windows, which Euclid's algorithm yields: where
    all are small, any run of consecutive multiples is spread almost evenly (Niederreiter, Random
    Number Generation and Quasi-Monte Carlo Methods, 1992, chapter 3). Tiny strides, strides near
    ``windows`` and strides near a simple fraction of it all have a large one.
    """
    largest = 0
    while stride:
        largest = max(largest, windows // stride)
        windows, stride = stride, windows % stride
    return largest if windows == 1 else math.inf


class BatchLoader:
    """Batches for one rank, prepared ahead by a thread.

    Order: coprime strides over fixed windows of the packed text (``WindowOrder``), not windows
    aligned with documents and not a stored permutation. It takes no memory and no time to set up
    or to resume for 10 billion tokens, each batch is stratified over the whole corpus, and packed
    windows are what the evaluation scores.

    Promise: with W = batch_tokens / seq_len, step s consumes windows s * W to (s + 1) * W - 1,
    whatever the number of ranks. Row k of micro-batch a of rank r is window
    (a * world_size + r) * rows + k of the step. ``position`` is all there is to a checkpoint.

    The thread fills pinned host memory and makes no CUDA call, so a CUDA graph may be captured at
    any time beside it. ``next_step`` starts the copy on a stream of its own, which overlaps with
    the steps that the GPU still has in its queue; the current stream waits for it, the host does
    not.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        seq_len: int,
        batch_tokens: int,
        accumulation: int,
        rank: int,
        world_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        """Check that the batch can be dealt out; nothing is read before the first step.

        Args:
            batch_tokens: tokens of one optimizer step over all ranks and micro-batches.
            accumulation: micro-batches a step.
            seed: not negative.

        Raises:
            InputError: the batch does not divide, or the text is shorter than one window.
        """
        unit = seq_len * world_size * accumulation
        if batch_tokens % unit or batch_tokens < unit:
            nearest = max(1, round(batch_tokens / unit)) * unit
            raise InputError(
                f"batch of {batch_tokens} tokens is no multiple of seq_len x ranks x accumulation: "
                f"{seq_len} x {world_size} x {accumulation} = {unit}; the nearest is {nearest}"
            )
        if len(stream) < seq_len + 1:
            raise InputError(
                f"{stream.files[0].parent}: {len(stream)} tokens are fewer than one window of "
                f"{seq_len} and its last target; give more text or a shorter seq_len"
            )
        self._stream, self._device = stream, device
        self._order = WindowOrder(len(stream), seq_len, seed)
        self._rank, self._world_size = rank, world_size
        self._step_windows = batch_tokens // seq_len
        self._shape = (2, accumulation, batch_tokens // unit, seq_len)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._prefetch: _Prefetch | None = None
        self._position = 0

    @property
    def position(self) -> int:
        """Windows handed out so far over all ranks; prefetched ones do not count."""
        return self._position

    @position.setter
    def position(self, windows: int) -> None:
        if windows < 0:
            raise ValueError(f"position {windows} is negative")
        self.close()
        self._position = windows

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of a micro-batch over all ranks."""
        _, _, rows, seq_len = self._shape
        return rows * seq_len * self._world_size

    def next_step(self) -> list[tuple[Tensor, Tensor]]:
        """The next step's micro-batches: (inputs, targets), each (rows, seq_len) int32 on device.

        Targets are the inputs shifted by one token. The tensors belong to the caller.

        Raises:
            Exception: whatever failed in the thread; the next call tries the same step again.
        """
        if self._prefetch is None:
            self._prefetch = self._start_prefetch()
        try:
            inputs, targets = self._to_device(self._prefetch)
        except BaseException:
            self.close()
            raise
        self._position += self._step_windows
        return list(zip(inputs, targets, strict=True))

    def close(self) -> None:
        """End the prefetch thread; a later ``next_step`` goes on where this one stopped."""
        if self._prefetch is not None:
            self._prefetch.close()
            self._prefetch = None

    def _start_prefetch(self) -> "_Prefetch":
        pinned = self._copies is not None
        buffers = [
            torch.empty(self._shape, dtype=torch.int32, pin_memory=pinned)
            for _ in range(STEPS_AHEAD + 1)
        ]
        return _Prefetch(buffers, self._fill, self._position, self._step_windows)

    def _fill(self, position: int, buffer: Tensor) -> None:
        """Write this rank's rows of the step at ``position`` to ``buffer`` (2, micro, rows, T)."""
        inputs, targets = buffer.numpy()
        _, accumulation, rows, seq_len = self._shape
        for micro in range(accumulation):
            first = position + (micro * self._world_size + self._rank) * rows
            for row in range(rows):
                tokens = self._stream.read(self._order.start(first + row), seq_len + 1)
                inputs[micro, row] = tokens[:-1]
                targets[micro, row] = tokens[1:]

    def _to_device(self, prefetch: "_Prefetch") -> Tensor:
        buffer = prefetch.take()
        if self._copies is None:
            batch = buffer.to(self._device, copy=True)
            prefetch.give_back(buffer)
            return batch
        with torch.cuda.stream(self._copies):
            batch = buffer.to(self._device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        prefetch.give_back(buffer, copied)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._copies)
        batch.record_stream(current)
        return batch


class _Prefetch:
    """A daemon thread that fills a fixed set of buffers, at most ``STEPS_AHEAD`` of them ahead."""

    def __init__(
        self,
        buffers: list[Tensor],
        fill: Callable[[int, Tensor], None],
        position: int,
        step_windows: int,
    ) -> None:
        self._free: SimpleQueue[Tensor | None] = SimpleQueue()
        self._ready: SimpleQueue[Tensor | BaseException] = SimpleQueue()
        self._copying: tuple[Tensor, torch.cuda.Event] | None = None
        for buffer in buffers:
            self._free.put(buffer)
        self._thread = Thread(target=self._work, args=(fill, position, step_windows), daemon=True)
        self._thread.start()

    def _work(self, fill: Callable[[int, Tensor], None], position: int, step_windows: int) -> None:
        try:
            while (buffer := self._free.get()) is not None:
                fill(position, buffer)
                self._ready.put(buffer)
                position += step_windows
        except BaseException as error:
            self._ready.put(error)

    def take(self) -> Tensor:
        """The next filled buffer; the thread's exception in its place."""
        if self._copying is not None:
            # Issued a whole step ago, on a stream with nothing else to do: no wait in practice.
            buffer, copied = self._copying
            copied.synchronize()
            self._free.put(buffer)
            self._copying = None
        filled = self._ready.get()
        if isinstance(filled, BaseException):
            raise filled
        return filled

    def give_back(self, buffer: Tensor, copied: torch.cuda.Event | None = None) -> None:
        """Let the thread fill ``buffer`` again, once the copy from it is done."""
        if copied is None:
            self._free.put(buffer)
        else:
            self._copying = buffer, copied

    def close(self) -> None:
        self._free.put(None)
        self._thread.join()
