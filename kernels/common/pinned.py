"""Small tables in device memory that the host updates without waiting for the device."""

from collections.abc import Sequence

import torch

BLOCKS = 8  # copies that the host may be ahead of the device before a block is written again


class DeviceTable:
    """A tensor on the device, and a ring of pinned host blocks that are copied to it.

    Attributes:
        values: (size,) on the device; its address never changes.

    Args:
        size: number of elements.
        dtype: of the elements.
        device: of the table.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.values = torch.zeros(size, dtype=dtype, device=device)
        pinned = device.type == "cuda"
        self._blocks = torch.zeros(BLOCKS, size, dtype=dtype, pin_memory=pinned)
        self._updates = 0

    def update(self, values: Sequence[float]) -> None:
        """Copy ``values`` to the device, in stream order."""
        block = self._blocks[self._updates % BLOCKS]
        block.copy_(torch.tensor(values, dtype=block.dtype))
        self.values.copy_(block, non_blocking=True)
        self._updates += 1
