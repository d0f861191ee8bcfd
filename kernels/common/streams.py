"""Side streams, whose launches overlap with the current stream's until the join.

    with Side(device) as side:
        with side.launches():  # runs after everything launched on the current stream so far
            ...
        ...                    # overlaps with it
    ...                        # runs after both

A kernel leaves multiprocessors idle while it starts, in its last wave, and if it has fewer blocks
than the GPU has multiprocessors. An independent kernel can use them. Streams change only when a
kernel runs, so results equal those of ``serial`` bit for bit. cuBLAS guarantees that only if each
stream has a separate workspace, which PyTorch provides.

Fork and join are events, so a CUDA graph captures them as its edges. Both are in one context, so
callers, autograd and the allocator see one stream only:

- Memory that is used after the join must be allocated on the current stream, before the launch,
  because the allocator reuses memory in the order of the stream that it was allocated on. Memory
  that a block of ``launches`` allocates must not be used outside it.
- Memory that a side stream reads must stay allocated until the join, or else the allocator may
  reuse it for a launch on the current stream. ``Side.product`` ensures both.

Gradients of one weight from several calls meet after the joins, where autograd adds them.

A CPU has no streams: launches run in the order of the code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

# Above the current stream's 0, because side launches are shorter, or one wave of long blocks. The
# current stream's many blocks fill the multiprocessors that they leave idle.
PRIORITY = -1

_concurrent = True


class Side:
    """A side stream of ``device``, joined to the current stream when the context ends.

    Args:
        lane: index of a side stream of the device; lanes overlap with each other, too. None is the
            current stream itself.
    """

    def __init__(self, device: torch.device, lane: int | None = 0) -> None:
        self.stream = None if lane is None else side_stream(device, lane)
        self.main = None if self.stream is None else torch.cuda.current_stream(device)
        self.operands: list[Tensor] = []
        self.forked = False

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self.join()
        self.operands.clear()

    @contextmanager
    def launches(self) -> Iterator[None]:
        """Launch on the side stream, after everything launched on the current stream so far."""
        if self.stream is None or self.main is None:
            yield
            return
        self.forked = True
        self.stream.wait_stream(self.main)
        with torch.cuda.stream(self.stream):
            yield

    def mark(self) -> torch.Event | None:
        """Return an event of the side stream's launches so far, for ``join``."""
        return None if self.stream is None else self.stream.record_event()

    def join(self, mark: torch.Event | None = None) -> None:
        """Make the current stream wait for the side stream, up to ``mark`` unless it is None.

        Without an earlier launch it does nothing, because a capture would not include the side
        stream.
        """
        if self.stream is None or self.main is None or not self.forked:
            return
        if mark is None:
            self.main.wait_stream(self.stream)
        else:
            self.main.wait_event(mark)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``left @ right`` of matrices, made on the side stream; read it after the join."""
        result = left.new_empty(left.size(0), right.size(1))
        self.operands += left, right
        with self.launches():
            torch.mm(left, right, out=result)
        return result


@contextmanager
def serial() -> Iterator[None]:
    """Use no side streams within, in any thread, for comparisons."""
    global _concurrent
    before, _concurrent = _concurrent, False
    try:
        yield
    finally:
        _concurrent = before


def side_stream(device: torch.device, lane: int) -> torch.cuda.Stream | None:
    """Return the device's side stream of this index, or None if there are no streams."""
    return make_stream(device, lane, PRIORITY) if _concurrent and device.type == "cuda" else None


@cache
def make_stream(device: torch.device, lane: int, priority: int) -> torch.cuda.Stream:
    """Return a stream. It stays for the process, as does cuBLAS's workspace for it, 32 MB."""
    return torch.cuda.Stream(device, priority=priority)
