"""Copies each step's numbers from the device to the host without stopping the device."""

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from kernels.optimizer.statistics import FIELDS, REST

COUNTED = 3  # numbers before the groups' statistics: loss, gradient norm, skipped steps
Groups = Mapping[str, Mapping[str, float]]


def int6_error(groups: Groups) -> float | None:
    """Return the norm of the banks' int6 rounding error over their norm; None: not measured."""
    banks = [of for name, of in groups.items() if name != REST and "int6_error" in of]
    weight = sum(of["weight"] for of in banks)
    return math.sqrt(sum(of["int6_error"] for of in banks) / weight) if weight else None


def update_ratios(groups: Groups) -> list[float] | None:
    """Return the norm of each bank's update over that of its weights; None: not measured."""
    squares = [(of["update"], of["weight"]) for name, of in groups.items() if name != REST]
    return [math.sqrt(each / whole) if whole else math.inf for each, whole in squares] or None


# Signals that the host derives from the groups' statistics, which a run logs.
ON_HOST: dict[str, Callable[[Groups], float | list[float] | None]] = {
    "int6_error": int6_error,
    "update_ratios": update_ratios,
}


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
        measured: numbers of the signals that the update measures, by name.
    """

    step: int
    loss: float
    gradient_norm: float
    skipped: int
    groups: dict[str, dict[str, float]]
    measured: dict[str, float | list[float]]

    def numbers(self, reads: Collection[str]) -> dict[str, Any]:
        """Return the numbers of the signals that were measured and are read, by name."""
        derived = {name: of(self.groups) for name, of in ON_HOST.items() if name in reads}
        return self.measured | derived


class Metrics:
    """The numbers of the steps that the host launched and the device has not finished.

    Args:
        groups: names of the groups whose statistics follow the counted numbers.
        sizes: of the measured signals by name, whose numbers follow the statistics.
        outgoing: stream of the copies, which overlap with the next step; None on a CPU.
        fields: names of a group's statistics.
    """

    def __init__(
        self,
        groups: Sequence[str] = (),
        sizes: Mapping[str, int] | None = None,
        outgoing: torch.cuda.Stream | None = None,
        fields: Sequence[str] = FIELDS,
    ) -> None:
        self._groups, self._sizes, self._outgoing = groups, sizes or {}, outgoing
        self._fields = fields
        # The device's tensors are kept too, because they must not be freed during the copy.
        self._flight: deque[tuple[int, Tensor, Tensor, torch.Event | None]] = deque()

    def __len__(self) -> int:
        """Return the number of unfinished steps."""
        return len(self._flight)

    def push(self, step: int, numbers: Tensor) -> None:
        """Start copying a step's numbers, fp32 on the device, as ``Update`` returns them."""
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
        left = iter(numbers)
        loss, norm, skipped = islice(left, COUNTED)
        groups = {
            str(name): {str(field): value for field, value in zip(self._fields, left, strict=False)}
            for name in self._groups
        }
        measured = {
            name: next(left) if size == 1 else list(islice(left, size))
            for name, size in self._sizes.items()
        }
        assert not list(left), "a step has other numbers than the table of signals"
        return Finished(step, loss, norm, int(skipped), groups, measured)
