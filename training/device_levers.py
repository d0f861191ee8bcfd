"""Levers: the numbers that steer a step, in one small block of device memory.

The step reads them on the device, so changing one neither waits for the GPU, nor recompiles, nor
asks Python to branch. Those that the swarm steers: ``swarm.levers.LeverValues``; those that
follow from schedule and settings: ``kernels.optimizer.step_levers.StepLevers``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from kernels.optimizer.step_levers import StepLevers
from swarm.levers import LeverValues

NAMES = tuple(dict.fromkeys((*LeverValues._fields, *StepLevers._fields)))
# The host may run this many pushes ahead of the device before a pinned block is written again.
BLOCKS_IN_FLIGHT = 8


class Levers:
    """``set`` or ``decide`` on the host, ``push`` before a step, ``levers["qat"]`` on the device.

    Settings and schedule set levers at every step; what the swarm decided stands over that.
    """

    def __init__(self, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._set: dict[str, float] = dict.fromkeys(NAMES, 0.0) | LeverValues()._asdict()
        self._decided: dict[str, float] = {}
        self._blocks = torch.zeros(BLOCKS_IN_FLIGHT, len(NAMES), pin_memory=pinned)
        self._pushes = 0
        self._device = torch.zeros(len(NAMES), device=device)
        self._views: dict[str, Tensor] = dict(zip(NAMES, self._device.unbind(), strict=True))

    def set(self, **values: float) -> None:
        """Set levers by name.

        Raises:
            KeyError: no such lever.
        """
        _check(values)
        self._set |= values

    def decide(self, **values: float) -> None:
        """Set levers by name to what holds from now on, whatever ``set`` says.

        Raises:
            KeyError: no such lever.
        """
        _check(values)
        self._decided |= values

    def push(self) -> None:
        """Copy all levers to the device, in stream order, without waiting."""
        block = self._blocks[self._pushes % BLOCKS_IN_FLIGHT]
        block.copy_(torch.tensor(list(self.values.values())))
        self._device.copy_(block, non_blocking=True)
        self._pushes += 1

    def __getitem__(self, name: str) -> Tensor:
        """The lever as a () fp32 tensor on the device, a view that later pushes change."""
        return self._views[name]

    @property
    def values(self) -> dict[str, float]:
        """What the next push copies."""
        return self._set | self._decided


def _check(values: Mapping[str, float]) -> None:
    for name in values:
        if name not in NAMES:
            raise KeyError(f"no lever {name!r}; there are: {', '.join(NAMES)}")
