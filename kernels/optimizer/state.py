"""What an optimizer keeps for a parameter: declared, so that ranks can share and save it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


class State(NamedTuple):
    """One fp32 tensor that an optimizer keeps for a parameter; it starts at zero."""

    name: str
    """With its optimizer's name, as in a checkpoint: "muon.momentum"."""
    shape: Shape
    """For the whole parameter."""
    axis: int | None = None
    """0: ranks that share the parameter along axis 0 share this tensor the same way. None: every
    rank has all of it."""


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
