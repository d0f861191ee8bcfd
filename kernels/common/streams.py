"""Launches beside the current stream's, on side streams that it waits for again.

    with Side(device) as side:
        with side.launches():  # after all that the current stream has been given so far
            ...
        ...                    # meanwhile
    ...                        # after both

A kernel leaves multiprocessors idle while it starts, in its last wave, and where it has fewer
blocks than the GPU multiprocessors; another that needs nothing from it can have them. Streams
change when a kernel runs and nothing else: results are those of ``serial``, bit for bit. cuBLAS
promises that only where each stream has its own workspace, as PyTorch gives it.

Fork and join are events, so a CUDA graph captures them as its edges. Both lie within one context,
so callers, autograd and the allocator know of one stream only:

- Memory that is used after the join must be allocated on the current stream, before the launch: the
  allocator hands memory out again in the order of the stream that it was allocated on. What
  a block of ``launches`` allocates may not leave it.
- What a side stream reads must live until the join, or the allocator may give it to a launch of
  the current stream's. ``Side.product`` sees to both.

A CPU has no streams: there, all is launched in the order of the code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

# Before the current stream's, which has 0: what is launched beside is shorter, or one wave of long
# blocks. The other's many blocks fill what it leaves; begun after them, it would leave that empty.
PRIORITY = -1

_apart = True


class Side:
    """A side stream of ``device``, joined to the current stream where the context ends.

    Args:
        lane: which of the device's side streams; those of two lanes run beside each other too.
            None: the current stream itself.
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
        """What is launched within goes beside, after all that the current stream has so far."""
        if self.stream is None or self.main is None:
            yield
            return
        self.forked = True
        self.stream.wait_stream(self.main)
        with torch.cuda.stream(self.stream):
            yield

    def mark(self) -> torch.Event | None:
        """Where the side stream stands now, for ``join``."""
        return None if self.stream is None else self.stream.record_event()

    def join(self, mark: torch.Event | None = None) -> None:
        """Let the current stream wait for the side's, up to the mark if there is one.

        Before any launch there is nothing to wait for: a capture would not know that stream.
        """
        if self.stream is None or self.main is None or not self.forked:
            return
        if mark is None:
            self.main.wait_stream(self.stream)
        else:
            self.main.wait_event(mark)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """``left @ right``, matrices, made beside; to be read after the join."""
        result = left.new_empty(left.size(0), right.size(1))
        self.operands += left, right
        with self.launches():
            torch.mm(left, right, out=result)
        return result


@contextmanager
def serial() -> Iterator[None]:
    """No side streams within, in any thread: to compare with."""
    global _apart
    before, _apart = _apart, False
    try:
        yield
    finally:
        _apart = before


def side_stream(device: torch.device, lane: int) -> torch.cuda.Stream | None:
    """The device's side stream of this number, or None where there is none."""
    return made(device, lane, PRIORITY) if _apart and device.type == "cuda" else None


@cache
def made(device: torch.device, lane: int, priority: int) -> torch.cuda.Stream:
    """Kept for good, as the workspace is that PyTorch gives cuBLAS for every stream, 32 MB."""
    return torch.cuda.Stream(device, priority=priority)
