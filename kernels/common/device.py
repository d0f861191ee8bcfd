"""Properties of the device that kernels run on."""

from functools import cache

import torch


@cache
def is_hopper(device: torch.device) -> bool:
    """Return whether ``device`` is a GPU of compute capability 9.0."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


@cache
def multiprocessors(device: torch.device) -> int:
    """Return a GPU's number of multiprocessors, the programs of a persistent grid; else 1."""
    if device.type != "cuda":
        return 1  # the interpreter
    return torch.cuda.get_device_properties(device).multi_processor_count
