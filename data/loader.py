"""Batches of token windows: shuffled, the same for any number of ranks, resumed by one integer."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch, BatchShape, document_bounds
from data.order import BlockOrder
from data.prefetch import Prefetch
from data.shards import TokenStream
from errors import InputError

if TYPE_CHECKING:
    from data.sieve import Sieve

STEPS_AHEAD = 2
TRIES = 8  # later passes in which the loader looks for text in place of noise


class BatchLoader:
    """Batches for one rank, prepared ahead by a thread.

    Order: coprime strides over fixed blocks of the packed text (``BlockOrder``), not windows
    aligned with documents and not a stored permutation. It takes no memory and no time to set up
    or to resume for 10 billion tokens, each batch is stratified over the whole corpus, and packed
    windows are what the evaluation scores. A block is as long as the longest window; shorter
    windows are a block's parts, so that a pass reads each token once whatever their length.

    Promise: with T = seq_len and W = batch_tokens / T, a step at position P, in tokens, consumes
    the windows ceil(P / T) to ceil(P / T) + W - 1 of that order, whatever the number of ranks. Row
    k of micro-batch a of rank r is window (a * world_size + r) * rows + k of the step.
    A checkpoint holds only ``position`` and the count ``noise``. If a window is noise by the sieve,
    the loader reads the window at its place in a later pass, the first one that is text.

    The thread fills pinned host memory and makes no CUDA call, so a CUDA graph may be captured at
    any time. ``next_step`` starts the copy on a separate stream, so that it overlaps with the steps
    in the GPU's queue. The current stream waits for the copy; the host does not. A step of another
    shape restarts the thread, in the same buffers.

    Attributes:
        noise: windows of this rank that were noise, in the steps handed out so far.
    """

    def __init__(
        self,
        stream: TokenStream,
        shapes: Sequence[BatchShape],
        *,
        rank: int,
        world_size: int,
        seed: int,
        bos_id: int,
        device: torch.device,
        sieve: "Sieve | None" = None,
    ) -> None:
        """Check that the batches can be partitioned; nothing is read before the first step.

        Args:
            shapes: of all steps that will be taken; the first is that of a step without a shape.
            seed: not negative.
            bos_id: token that starts every document.
            sieve: says which windows are noise; None: none is.

        Raises:
            InputError: a batch does not divide, or the text is shorter than one window.
        """
        block = max(shape.seq_len for shape in shapes)
        for shape in shapes:
            _check(shape, world_size)
        if len(stream) < block + 1:
            raise InputError(
                f"{stream.files[0].parent}: {len(stream)} tokens are fewer than one window of "
                f"{block} and its last target; give more text or a shorter seq_len"
            )
        self._stream, self._shapes, self._bos_id = stream, tuple(shapes), bos_id
        self._order = BlockOrder(len(stream), block, seed)
        self._rank, self._world_size, self._device = rank, world_size, device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers: list[Tensor] = []
        self._prefetch: Prefetch | None = None
        self._shape = self._shapes[0]
        self._position = 0
        self._sieve, self._found, self.noise = sieve, {}, 0

    @property
    def position(self) -> int:
        """Tokens handed out so far over all ranks; prefetched ones do not count."""
        return self._position

    @position.setter
    def position(self, tokens: int) -> None:
        if tokens < 0:
            raise ValueError(f"position {tokens} is negative")
        self.close()
        self._position = tokens

    @property
    def repeats(self) -> bool:
        """Whether the next step takes text that an earlier pass took."""
        return self._position >= self._order.blocks * self._order.length

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of a micro-batch over all ranks, of a step without a shape."""
        return self._shapes[0].batch_tokens // self._shapes[0].accumulation

    def next_step(self, shape: BatchShape | None = None) -> list[Batch]:
        """Return the next step's micro-batches, on the device; the tensors are the caller's.

        Args:
            shape: one of those that the loader was made with; None: the first of them.

        Raises:
            Exception: whatever failed in the thread; the next call tries the same step again.
        """
        shape = shape or self._shapes[0]
        if shape != self._shape:
            self.close()
            self._shape = shape
        if self._prefetch is None:
            self._prefetch = self._start_prefetch()
        try:
            step = self._to_device(self._prefetch)
        except BaseException:
            self.close()
            raise
        self.noise += self._found.pop(self._position, 0)
        self._position += shape.batch_tokens
        return [Batch(part[0], part[1], part[2:] if shape.documents else None) for part in step]

    def close(self) -> None:
        """End the prefetch thread; a later ``next_step`` goes on where this one stopped."""
        if self._prefetch is not None:
            self._prefetch.close()
            self._prefetch = None
            self._found.clear()

    def _start_prefetch(self) -> Prefetch:
        shape = self._shape
        if not self._buffers:
            self._buffers = self._allocate()
        size = self._buffer_shape(shape)
        parts = [buffer[: size.numel()].view(size) for buffer in self._buffers]
        return Prefetch(parts, partial(self._fill_text, shape), self._position, shape.batch_tokens)

    def _allocate(self) -> list[Tensor]:
        """Return buffers on the host in which a step of any shape fits."""
        most = max(self._buffer_shape(shape).numel() for shape in self._shapes)
        pinned = self._copies is not None
        return [
            torch.empty(most, dtype=torch.int32, pin_memory=pinned) for _ in range(STEPS_AHEAD + 1)
        ]

    def _buffer_shape(self, shape: BatchShape) -> torch.Size:
        """Return (micro-batches, 2 or 4, rows, T): tokens, targets, and the bounds if any."""
        rows = shape.batch_tokens // (shape.seq_len * self._world_size * shape.accumulation)
        return torch.Size((shape.accumulation, 4 if shape.documents else 2, rows, shape.seq_len))

    def _fill_text(self, shape: BatchShape, position: int, buffer: Tensor) -> None:
        """Fill a buffer, and write text over its windows that are noise."""
        self._fill(shape, position, buffer)
        if self._sieve is None:
            return
        length = shape.seq_len
        windows = self._order.blocks * (self._order.length // length)  # of a pass
        for micro, part in enumerate(buffer.numpy()):
            for row in np.flatnonzero(self._sieve.noise(part[0])):
                self._found[position] = self._found.get(position, 0) + 1
                window = self._window(length, position, micro, part.shape[1]) + row
                for ahead in range(1, 1 + TRIES):
                    self._read(part[:, row], window + ahead * windows)
                    if not self._sieve.noise(part[0, row]):
                        break
            if shape.documents and position in self._found:
                part[2:] = document_bounds(part[0], self._bos_id)

    def _fill(self, shape: BatchShape, position: int, buffer: Tensor) -> None:
        """Write this rank's rows of the step at ``position`` to a buffer of ``_buffer_shape``."""
        for micro, part in enumerate(buffer.numpy()):
            rows = part.shape[1]
            window = self._window(shape.seq_len, position, micro, rows)
            for row in range(rows):
                self._read(part[:, row], window + row)
            if shape.documents:
                part[2:] = document_bounds(part[0], self._bos_id)

    def _window(self, length: int, position: int, micro: int, rows: int) -> int:
        """Return the number of this rank's first window of a micro-batch of a step."""
        return -(-position // length) + (micro * self._world_size + self._rank) * rows

    def _read(self, row: np.ndarray, window: int) -> None:
        """Write a window's tokens and targets to the first two lines of (2 or 4, T)."""
        length = row.shape[-1]
        tokens = self._stream.read(self._order.window(window, length), length + 1)
        row[0], row[1] = tokens[:-1], tokens[1:]

    def _to_device(self, prefetch: Prefetch) -> Tensor:
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


def _check(shape: BatchShape, world_size: int) -> None:
    """Refuse a batch that cannot be split evenly over ranks and micro-batches."""
    batch_tokens, seq_len, accumulation, _ = shape
    unit = seq_len * world_size * accumulation
    if batch_tokens % unit or batch_tokens < unit:
        nearest = max(1, round(batch_tokens / unit)) * unit
        raise InputError(
            f"batch of {batch_tokens} tokens is no multiple of seq_len x ranks x accumulation: "
            f"{seq_len} x {world_size} x {accumulation} = {unit}; the nearest is {nearest}"
        )
