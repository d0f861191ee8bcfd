"""Projections by cuBLAS: alone, several of one input, and onto the residual stream.

The savings are in the memory traffic around the products. A product that accumulates reads the
stream and rounds once; a separate addition would also read the product back. One product of several
weights reads its input once. Its backward pass sums the input's gradients inside one product. A
weight's gradient overlaps with the input's (``kernels.common.streams``).
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.streams import Side
from kernels.operand import Operand, unscaled


def linear(x: Tensor | Operand, weight: Tensor | Operand) -> Tensor:
    """Compute ``kernels.linear.Linear`` by cuBLAS."""
    return F.linear(unscaled(x), unscaled(weight))


def linear_add(stream: Tensor, x: Tensor | Operand, weight: Tensor | Operand) -> Tensor:
    """Compute ``kernels.linear.LinearAdd`` in stream's memory.

    The gradient of the stream is the upstream gradient. At 98,304 rows, 512 -> 512 in bf16: 52
    GFLOP and 302 MB.
    """
    return LinearAdd.apply(stream, unscaled(x), unscaled(weight))  # pyright: ignore[reportReturnType]


def projections(
    x: Tensor | Operand,
    weight: Tensor | Operand,
    sizes: Sequence[int],
    lookup: Tensor | None = None,
    lookup_weight: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Compute ``kernels.linear.Projections`` as views of one (..., sum(sizes)).

    If the gradients are adjacent like the projections, the backward pass uses them as one matrix.
    Otherwise it copies them into one: 403 MB at 98,304 rows, 512 -> 512 + 256 + 256 in bf16.
    """
    if lookup_weight is None:
        lookup = None
    given = (unscaled(x), unscaled(weight), tuple(sizes), lookup, lookup_weight)
    return Projections.apply(*given)  # pyright: ignore[reportReturnType]


class LinearAdd(torch.autograd.Function):
    """Saves x and the weight."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.mark_dirty(stream)
        ctx.save_for_backward(x, weight)
        stream.view(-1, stream.size(-1)).addmm_(rows(x), weight.T)
        return stream

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with Side(dy.device) as side:
            return dy, *gradients(side, dy, *ctx.saved_tensors, *ctx.needs_input_grad[1:])


class Projections(torch.autograd.Function):
    """Saves the inputs."""

    @staticmethod
    def forward(ctx: Any, x, weight, sizes, lookup, lookup_weight) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, lookup, lookup_weight)
        ctx.sizes = sizes
        joint = F.linear(x, weight)
        parts = joint.split(sizes, dim=-1)
        if lookup is not None:
            rows(joint)[:, -sizes[-1] :].addmm_(rows(lookup), lookup_weight.T)
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *parts: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, lookup, lookup_weight = ctx.saved_tensors
        needed = (*ctx.needs_input_grad[:2], *ctx.needs_input_grad[3:])
        joint = joint_matrix([None if part is None else rows(part) for part in parts], ctx.sizes, x)
        found = projection_gradients(joint, x, weight, lookup, lookup_weight, needed)
        return *found[:2], None, *found[2:]


def projection_gradients(
    joint: Tensor,
    x: Tensor,
    weight: Tensor,
    lookup: Tensor | None,
    lookup_weight: Tensor | None,
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight, lookup and lookup_weight that are ``needed``, else None.

    ``joint`` (N, sum(sizes)) holds the gradients of all projections, column after column.
    """
    with Side(x.device) as side:
        found = gradients(side, joint, x, weight, *needed[:2])
        if lookup is None or lookup_weight is None:
            return *found, None, None
        last = joint[:, -lookup_weight.size(0) :]
        return *found, *gradients(side, last, lookup, lookup_weight, *needed[2:])


def gradients(
    side: Side, dy: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the needed gradients of x and weight in ``x @ weight.T``; ``side`` makes the weight's.

    The weight's gradient starts first. It is one wave of blocks that leaves some multiprocessors
    idle, and the many tiles of the input's gradient fill those.
    """
    dy_NO = rows(dy)
    dweight = side.product(dy_NO.T, rows(x)) if needs_weight else None
    return (dy_NO @ weight).view(x.shape) if needs_x else None, dweight


def rows(x: Tensor) -> Tensor:
    """Return ``x`` (..., C) as (N, C), a view if its rows are evenly spaced."""
    return x.reshape(-1, x.size(-1))


def joint_matrix(parts: Sequence[Tensor | None], sizes: Sequence[int], like: Tensor) -> Tensor:
    """Return the matrix (N, sum(sizes)) whose columns are ``parts`` (N, size).

    If the parts are adjacent views of one matrix, that matrix is returned, otherwise a new one.
    None stands for zeros; ``like`` (..., in) has N rows.
    """
    count, width = like.numel() // like.size(-1), sum(sizes)
    given = [
        like.new_zeros(count, size) if part is None else part
        for part, size in zip(parts, sizes, strict=True)
    ]
    first = given[0]
    places = accumulate((first.storage_offset(), *sizes[:-1]))
    if all(
        part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and part.storage_offset() == place
        and part.stride() == (width, 1)
        for part, place in zip(given, places, strict=True)
    ):
        return first.as_strided((count, width), (width, 1))
    return torch.cat(given, dim=1)
