"""Levers: the numbers that steer a step, in one small block of device memory.

The step reads them on the device, so changing one neither waits for the GPU, nor recompiles, nor
asks Python to branch.
"""

import torch
from torch import Tensor

NAMES = ("clip", "mtp_weight", "qat")
# The host may run this many pushes ahead of the device before a pinned block is written again.
BLOCKS_IN_FLIGHT = 8


class Levers:
    """``set`` on the host, ``push`` before a step, ``levers["qat"]`` on the device.

    Levers are: ``clip``, the global gradient norm; ``mtp_weight``, the weight of the MTP loss;
    ``qat``, above 0.5 for int6-faked weights.
    """

    def __init__(self, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._values: dict[str, float] = dict.fromkeys(NAMES, 0.0)
        self._blocks = torch.zeros(BLOCKS_IN_FLIGHT, len(NAMES), pin_memory=pinned)
        self._pushes = 0
        self._device = torch.zeros(len(NAMES), device=device)
        self._views: dict[str, Tensor] = dict(zip(NAMES, self._device.unbind(), strict=True))

    def set(self, **values: float) -> None:
        """Set levers by name.

        Raises:
            KeyError: no such lever.
        """
        for name, value in values.items():
            if name not in self._values:
                raise KeyError(f"no lever {name!r}; there are: {', '.join(NAMES)}")
            self._values[name] = value

    def push(self) -> None:
        """Copy all levers to the device, in stream order, without waiting."""
        block = self._blocks[self._pushes % BLOCKS_IN_FLIGHT]
        block.copy_(torch.tensor(list(self._values.values())))
        self._device.copy_(block, non_blocking=True)
        self._pushes += 1

    def __getitem__(self, name: str) -> Tensor:
        """The lever as a () fp32 tensor on the device, a view that later pushes change."""
        return self._views[name]

    @property
    def values(self) -> dict[str, float]:
        """What the host last set."""
        return dict(self._values)
