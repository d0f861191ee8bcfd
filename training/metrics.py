"""A step's numbers on their way from the device to the host, without stopping the device."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Finished:
    """A step that the device has done: ``loss`` is the main head's mean nats over all ranks,
    ``gradient_norm`` the global norm before the clip."""

    step: int
    loss: float
    gradient_norm: float


class Metrics:
    """Steps in flight. The host may run ahead of the device, but only as far as it says."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._flight: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def __len__(self) -> int:
        """Steps in flight."""
        return len(self._flight)

    def push(self, step: int, numbers: Tensor) -> None:
        """Take a step's numbers, a (2,) fp32 device tensor: loss and gradient norm."""
        event = None
        if self._on_gpu:
            host = torch.empty(numbers.shape, pin_memory=True)
            numbers = host.copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._flight.append((step, numbers, event))

    def collect(self, pending: int) -> list[Finished]:
        """Wait until at most ``pending`` steps are in flight; return those that landed."""
        finished = []
        while len(self._flight) > pending:
            step, numbers, event = self._flight.popleft()
            if event is not None:
                event.synchronize()
            loss, norm = numbers.tolist()
            finished.append(Finished(step, loss, norm))
        return finished
