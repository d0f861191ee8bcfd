"""Projections: alone, several of one input, and onto the residual stream."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kernels.operand import Operand, dense, sourced


def linear(x: Tensor | Operand, weight: Tensor | Operand) -> Tensor:
    """Compute ``kernels.linear.Linear``."""
    exact = F.linear(sourced(x), sourced(weight))
    scaled = [each for each in (x, weight) if isinstance(each, Operand) and each.scale is not None]
    if not scaled:
        return exact
    rounded = F.linear(dense(x, exact.dtype).detach(), dense(weight, exact.dtype).detach())
    return rounded + (exact - exact.detach())


def linear_add(stream: Tensor, x: Tensor | Operand, weight: Tensor | Operand) -> Tensor:
    """Compute ``kernels.linear.LinearAdd`` in a new tensor."""
    return stream + linear(x, weight)


def projections(
    x: Tensor | Operand,
    weight: Tensor | Operand,
    sizes: Sequence[int],
    lookup: Tensor | None = None,
    lookup_weight: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Compute ``kernels.linear.Projections`` by one product."""
    *rest, last = linear(x, weight).split(tuple(sizes), dim=-1)
    if lookup is not None and lookup_weight is not None:
        last = last + F.linear(lookup, lookup_weight)
    return (*rest, last)
