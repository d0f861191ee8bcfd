"""Projections: alone, several of one input, and onto the residual stream."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: x (..., in), weight (out, in) -> (..., out)."""
    return F.linear(x, weight)


def linear_add(stream: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``stream + x @ weight.T``: stream (..., out), x (..., in), weight (out, in) -> (..., out).

    A kernel adds in stream's own memory, so go on with what is returned and forget the rest.
    """
    return stream + F.linear(x, weight)


def projections(
    x: Tensor,
    weight: Tensor,
    sizes: Sequence[int],
    lookup: Tensor | None = None,
    lookup_weight: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Projections of one input by one product, as QKV; the last may take a lookup's in.

    Args:
        x: (..., in).
        weight: (sum(sizes), in).
        sizes: width of each.
        lookup: (..., E), as a value embedding (parameter-golf PR #1081), with lookup_weight
            (sizes[-1], E): ``lookup @ lookup_weight.T`` is added to the last projection.

    Returns:
        A tensor (..., size) for each size.
    """
    *rest, last = F.linear(x, weight).split(tuple(sizes), dim=-1)
    if lookup is not None and lookup_weight is not None:
        last = last + F.linear(lookup, lookup_weight)
    return (*rest, last)
