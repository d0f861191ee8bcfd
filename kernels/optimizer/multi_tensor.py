"""Many tensors in one launch: a table of their addresses, and each program's chunk of a tensor.

The idea is that of multi_tensor_apply in NVIDIA's apex. The table is in device memory, so that a
captured launch follows tensors that moved.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.pinned import DeviceTable

ALIGNMENT = 16  # bytes: of the widest load


class Addresses:
    """Addresses of a list of tensors, on the device.

    Attributes:
        table: (tensors,) int64 on the device; 0 for None.
        aligned: whether loads of 16 bytes may be used on all of them.

    Args:
        tensors: fp32, contiguous; None for a missing one.
        device: of the table.
    """

    def __init__(self, tensors: Sequence[Tensor | None], device: torch.device) -> None:
        self._ring = DeviceTable(len(tensors), torch.int64, device)
        self.table = self._ring.values
        self._known: list[int] = []
        self.aligned = True
        self.update(tensors)

    def update(self, tensors: Sequence[Tensor | None]) -> None:
        """Copy the addresses of tensors that may have moved, in stream order, without waiting.

        If none moved, nothing is copied. Nothing is allocated, so that it can be captured.
        """
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        if addresses == self._known:
            return
        self._known = addresses
        self.aligned = all(address % ALIGNMENT == 0 for address in addresses)
        self._ring.update(addresses)


def sizes(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the number of elements of each tensor, (tensors,) int32."""
    return torch.tensor([tensor.numel() for tensor in tensors], dtype=torch.int32, device=device)


def chunk_map(
    tensors: Sequence[Tensor], indices: Sequence[int], chunk: int, device: torch.device
) -> Tensor:
    """Return each program's tensor and the first element of its chunk, (chunks, 2) int32, in order.

    Args:
        tensors: all tensors.
        indices: of the tensors of the launch.
        chunk: most elements of a program, a multiple of 16.
    """
    chunks = [
        (index, first) for index in indices for first in range(0, tensors[index].numel(), chunk)
    ]
    return torch.tensor(chunks, dtype=torch.int32, device=device).reshape(-1, 2)


@triton.jit
def tensor_at(addresses, index, ALIGNED: tl.constexpr):
    """Return an fp32 pointer to tensor ``index``."""
    pointer = tl.load(addresses + index).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def size_at(addresses, sizes, index):
    """Return the number of elements of tensor ``index``, 0 if it is missing."""
    return tl.where(tl.load(addresses + index) != 0, tl.load(sizes + index), 0)


@triton.jit
def chunk_at(chunks, program):
    """Return tensor and first element of a program's chunk; chunks begin at whole wide loads."""
    return tl.load(chunks + 2 * program), tl.multiple_of(tl.load(chunks + 2 * program + 1), 16)
