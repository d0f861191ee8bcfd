"""Many tensors in one launch: a table of where they lie, and each program's chunk of one of them.

The idea is multi_tensor_apply's, of NVIDIA's apex; the table lies in device memory, so that a
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
    """Where each of a list of tensors begins.

    Attributes:
        table: (tensors,) int64 on the device; 0 for None.
        aligned: whether loads of 16 bytes may be used on all of them.

    Args:
        tensors: fp32, contiguous; None where there is none.
        device: whose kernels read the table.
    """

    def __init__(self, tensors: Sequence[Tensor | None], device: torch.device) -> None:
        self._ring = DeviceTable(len(tensors), torch.int64, device)
        self.table = self._ring.values
        self._known: list[int] = []
        self.aligned = True
        self.update(tensors)

    def update(self, tensors: Sequence[Tensor | None]) -> None:
        """Follow tensors that may have moved, in stream order, without waiting.

        Nothing is copied where none did, and nothing allocated, so that it can be captured.
        """
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        if addresses == self._known:
            return
        self._known = addresses
        self.aligned = all(address % ALIGNMENT == 0 for address in addresses)
        self._ring.update(addresses)


def sizes(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """(tensors,) int32: elements of each."""
    return torch.tensor([tensor.numel() for tensor in tensors], dtype=torch.int32, device=device)


def chunk_map(
    tensors: Sequence[Tensor], indices: Sequence[int], chunk: int, device: torch.device
) -> Tensor:
    """(chunks, 2) int32: a program's tensor, and the first element of its chunk; in order.

    Args:
        tensors: that ``indices`` count in.
        indices: those that the launch is about.
        chunk: most elements of a program, a multiple of 16.
    """
    chunks = [
        (index, first) for index in indices for first in range(0, tensors[index].numel(), chunk)
    ]
    return torch.tensor(chunks, dtype=torch.int32, device=device).reshape(-1, 2)


@triton.jit
def tensor_at(addresses, index, ALIGNED: tl.constexpr):
    """fp32 pointer to where tensor ``index`` begins."""
    pointer = tl.load(addresses + index).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def size_at(addresses, sizes, index):
    """Elements of tensor ``index``, none where it is missing."""
    return tl.where(tl.load(addresses + index) != 0, tl.load(sizes + index), 0)


@triton.jit
def chunk_at(chunks, program):
    """Tensor and first element of a program's chunk; chunks begin at whole wide loads."""
    return tl.load(chunks + 2 * program), tl.multiple_of(tl.load(chunks + 2 * program + 1), 16)
