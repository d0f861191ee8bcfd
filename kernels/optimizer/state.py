"""Declarations of an optimizer's state, by which ranks shard and save it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


class State(NamedTuple):
    """One fp32 tensor of an optimizer's state for a parameter; it starts at zero."""

    name: str
    """With its optimizer's name, as in a checkpoint: "muon.momentum"."""
    shape: Shape
    """Shape for the whole parameter."""
    axis: int | None = None
    """0: sharded like the parameter, by its first axis. None: every rank has all of it."""


def zeros(
    parameters: Mapping[str, Tensor], declare: Callable[[Shape], tuple[State, ...]]
) -> dict[str, dict[str, Tensor]]:
    """Return the states of parameters, or of a rank's parts of them: by state, then by parameter.

    Args:
        parameters: by name.
        declare: the states of a parameter, by its shape.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in parameters.items():
        for state in declare(tuple(parameter.shape)):
            whole = torch.zeros(state.shape, dtype=parameter.dtype, device=parameter.device)
            found.setdefault(state.name, {})[name] = whole
    return found
