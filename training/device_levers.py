"""The levers in device memory: one small block of fp32 numbers that steer a step.

A step reads them on the device. So a new value needs no wait for the GPU, no compilation and no
branch in Python. The swarm steers ``swarm.levers.LeverValues``; schedule and settings determine
``kernels.optimizer.step_levers.StepLevers``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from kernels.common.pinned import DeviceTable
from kernels.optimizer.step_levers import StepLevers
from swarm.levers import LeverValues

NAMES = tuple(dict.fromkeys((*LeverValues._fields, *StepLevers._fields)))


class DeviceLevers:
    """The value of every lever on the host, and as a tensor on the device.

    ``push`` copies the values to the device; ``levers["qat"]`` is the tensor that kernels read.
    """

    def __init__(self, device: torch.device) -> None:
        self._scheduled: dict[str, float] = dict.fromkeys(NAMES, 0.0) | LeverValues()._asdict()
        self._decided: dict[str, float] = {}
        self._table = DeviceTable(len(NAMES), torch.float32, device)
        self._views: dict[str, Tensor] = dict(zip(NAMES, self._table.values.unbind(), strict=True))

    def value(self, name: str) -> float:
        """Return a lever's value in force: the swarm's decision, or else the scheduled value."""
        return self._decided.get(name, self._scheduled[name])

    def schedule(self, **values: float) -> None:
        """Set the values of levers by settings and schedule, which hold unless decided otherwise.

        Raises:
            KeyError: there is no such lever.
        """
        _check(values)
        self._scheduled |= values

    def decide(self, **values: float) -> None:
        """Set the values of levers by the swarm's decision.

        Raises:
            KeyError: there is no such lever.
        """
        _check(values)
        self._decided |= values

    def push(self) -> None:
        """Copy the values in force to the device, in stream order, without waiting."""
        self._table.update([self.value(name) for name in NAMES])

    def __getitem__(self, name: str) -> Tensor:
        """Return the lever as a () fp32 tensor on the device, a view that pushes change."""
        return self._views[name]


def _check(values: Mapping[str, float]) -> None:
    for name in values:
        if name not in NAMES:
            raise KeyError(f"no lever {name!r}; there are: {', '.join(NAMES)}")
