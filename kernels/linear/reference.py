"""Projections: alone, several of one input, and onto the residual stream."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kernels.operand import Operand, dense


def linear(x: Tensor, weight: Tensor | Operand) -> Tensor:
    """Compute ``kernels.linear.Linear``."""
    return F.linear(x, dense(weight, x.dtype))


def linear_add(stream: Tensor, x: Tensor, weight: Tensor | Operand) -> Tensor:
    """Compute ``kernels.linear.LinearAdd`` in a new tensor."""
    return stream + F.linear(x, dense(weight, x.dtype))


def projections(
    x: Tensor,
    weight: Tensor | Operand,
    sizes: Sequence[int],
    lookup: Tensor | None = None,
    lookup_weight: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Compute ``kernels.linear.Projections`` by one product."""
    *rest, last = F.linear(x, dense(weight, x.dtype)).split(tuple(sizes), dim=-1)
    if lookup is not None and lookup_weight is not None:
        last = last + F.linear(lookup, lookup_weight)
    return (*rest, last)
