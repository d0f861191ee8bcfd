"""A thread that fills buffers on the host while the device computes."""

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread

import torch
from torch import Tensor


class Prefetch:
    """A daemon thread that fills a fixed set of buffers, one step after the other.

    Args:
        buffers: one more than the steps that are filled ahead.
        fill: writes the step at a position to a buffer.
        position: of the first step.
        step_tokens: tokens from one step to the next.
    """

    def __init__(
        self,
        buffers: Sequence[Tensor],
        fill: Callable[[int, Tensor], None],
        position: int,
        step_tokens: int,
    ) -> None:
        self._free: SimpleQueue[Tensor | None] = SimpleQueue()
        self._ready: SimpleQueue[Tensor | BaseException] = SimpleQueue()
        self._copying: tuple[Tensor, torch.cuda.Event] | None = None
        self._closing = False
        for buffer in buffers:
            self._free.put(buffer)
        self._thread = Thread(target=self._work, args=(fill, position, step_tokens), daemon=True)
        self._thread.start()

    def _work(self, fill: Callable[[int, Tensor], None], position: int, step_tokens: int) -> None:
        try:
            while (buffer := self._free.get()) is not None and not self._closing:
                fill(position, buffer)
                self._ready.put(buffer)
                position += step_tokens
        except BaseException as error:
            self._ready.put(error)

    def take(self) -> Tensor:
        """Return the next filled buffer; raise the thread's exception in its place."""
        self._end_copy()
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
        """End the thread; no copy reads the buffers after that."""
        self._closing = True
        self._free.put(None)
        self._thread.join()
        self._end_copy()

    def _end_copy(self) -> None:
        if self._copying is not None:
            # Issued a whole step ago on an otherwise idle stream, so there is no wait in practice.
            buffer, copied = self._copying
            copied.synchronize()
            self._free.put(buffer)
            self._copying = None
