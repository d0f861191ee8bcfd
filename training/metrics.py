"""Copies each step's numbers from the device to the host without stopping the device."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.optimizer.statistics import FIELDS, REST

COUNTED = 3  # numbers before the groups' statistics: loss, gradient norm, skipped steps


@dataclass(frozen=True)
class Finished:
    """The numbers of a step that the device has finished.

    Attributes:
        step: from 0.
        loss: the main head's mean nats over all ranks.
        gradient_norm: the global norm before the clip.
        skipped: steps so far that changed nothing, because their gradients were not finite.
        groups: statistics of each group of parameters by name, as
            ``kernels.optimizer.statistics.FIELDS``; empty if the optimizer has none.
    """

    step: int
    loss: float
    gradient_norm: float
    skipped: int
    groups: dict[str, dict[str, float]]

    @property
    def int6_error(self) -> float | None:
        """Norm of the banks' int6 rounding error over their norm; None: not measured."""
        banks = [of for name, of in self.groups.items() if name != REST]
        weight = sum(of["weight"] for of in banks)
        return math.sqrt(sum(of["int6_error"] for of in banks) / weight) if weight else None


class Metrics:
    """The numbers of the steps that the host launched and the device has not finished.

    Args:
        groups: names of the groups whose statistics follow the counted numbers.
        outgoing: stream of the copies, which overlap with the next step; None on a CPU.
    """

    def __init__(
        self, groups: Sequence[str] = (), outgoing: torch.cuda.Stream | None = None
    ) -> None:
        self._groups, self._outgoing = groups, outgoing
        # The device's tensors are kept too, because they must not be freed during the copy.
        self._flight: deque[tuple[int, Tensor, Tensor, torch.Event | None]] = deque()

    def __len__(self) -> int:
        """Return the number of unfinished steps."""
        return len(self._flight)

    def push(self, step: int, numbers: Tensor) -> None:
        """Start copying a step's numbers, (3 + 6 groups,) fp32 on the device, of ``Update``."""
        host, event = numbers, None
        if self._outgoing:
            self._outgoing.wait_stream(torch.cuda.current_stream())
            host = torch.empty(numbers.shape, pin_memory=True)
            with torch.cuda.stream(self._outgoing):
                host.copy_(numbers, non_blocking=True)
            event = self._outgoing.record_event()
        self._flight.append((step, numbers, host, event))

    def collect(self, pending: int) -> list[Finished]:
        """Wait until at most ``pending`` steps are unfinished; return the finished ones."""
        finished = []
        while len(self._flight) > pending:
            step, _, host, event = self._flight.popleft()
            if event is not None:
                event.synchronize()
            finished.append(self._read(step, host.tolist()))
        return finished

    def _read(self, step: int, numbers: list[float]) -> Finished:
        loss, norm, skipped = numbers[:COUNTED]
        rows = (numbers[first:] for first in range(COUNTED, len(numbers), len(FIELDS)))
        groups = {
            str(name): {str(field): value for field, value in zip(FIELDS, row, strict=False)}
            for name, row in zip(self._groups, rows, strict=True)
        }
        return Finished(step, loss, norm, int(skipped), groups)
