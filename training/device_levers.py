"""The levers in device memory: one small block of fp32 numbers that steer a step.

A step reads them on the device. So a new value needs no wait for the GPU, no compilation and no
branch in Python. ``swarm.levers.LEVERS`` is the table of them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from kernels.common.pinned import DeviceTable
from settings import Settings
from swarm.levers import LEVERS, in_force


class DeviceLevers:
    """The value of every lever on the host, and as a tensor on the device.

    ``push`` copies the values to the device; ``levers["qat"]`` is the tensor that kernels read.

    Args:
        settings: of the run; they determine the values before the first step.
        device: of the block.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        numbers = (lever for lever in LEVERS if not lever.field)
        self._scheduled = {lever.name: float(lever.start(settings)) for lever in numbers}
        self._decided: dict[str, float] = {}
        self._table = DeviceTable(len(self._scheduled), torch.float32, device)
        views = self._table.values.unbind()
        self._views: dict[str, Tensor] = dict(zip(self._scheduled, views, strict=True))

    def value(self, name: str) -> float:
        """Return a lever's value in force: the swarm's decision, or else the scheduled value."""
        return in_force(name, self._decided, self._scheduled)

    def schedule(self, **values: float) -> None:
        """Set the values of levers by the schedule, which hold unless decided otherwise.

        Raises:
            KeyError: there is no such lever.
        """
        self._check(values)
        self._scheduled |= values

    def decide(self, **values: float) -> None:
        """Set the values of levers by the swarm's decision.

        Raises:
            KeyError: there is no such lever.
        """
        self._check(values)
        self._decided |= values

    def push(self) -> None:
        """Copy the values in force to the device, in stream order, without waiting."""
        self._table.update([self.value(name) for name in self._scheduled])

    def __getitem__(self, name: str) -> Tensor:
        """Return the lever as a () fp32 tensor on the device, a view that pushes change."""
        return self._views[name]

    def _check(self, values: Mapping[str, float]) -> None:
        for name in values:
            if name not in self._scheduled:
                raise KeyError(f"no lever {name!r}; there are: {', '.join(self._scheduled)}")
