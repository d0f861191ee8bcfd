"""A weight as a matrix product takes it: values, and in fp8 a factor of each row."""

from typing import NamedTuple

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST_FP8 = 448.0
NO_FP8_KERNELS = "backend kernels has no fp8 products; use backend reference or compiled"


class Operand(NamedTuple):
    """A matrix ``values * scale[..., None]``, or a stack of matrices.

    Attributes:
        values: (..., rows, cols) in the compute dtype, or with a scale in fp8 (e4m3).
        scale: (..., rows) fp32; None: there is no factor.
        source: (..., rows, cols), the matrix before it was rounded to fp8. Its gradient is that of
            the rounded matrix (straight through). None without a scale.
    """

    values: Tensor
    scale: Tensor | None = None
    source: Tensor | None = None

    def halves(self) -> tuple["Operand", "Operand"]:
        """Return the first and the second half of a stack."""
        halves = (None if part is None else part.unflatten(0, (2, -1)) for part in self)
        first, second = Operand(*halves).unbind()  # pyright: ignore[reportArgumentType]
        return first, second

    def unbind(self) -> tuple["Operand", ...]:
        """Return the members of a stack."""
        if self.scale is None or self.source is None:
            return tuple(map(Operand, self.values.unbind()))
        members = zip(self.values.unbind(), self.scale.unbind(), self.source.unbind(), strict=True)
        return tuple(Operand(*member) for member in members)


def rows_of(*operands: Operand) -> Operand:
    """Return stacks of one length with their matrices' rows joined, (stack, sum of rows, cols)."""
    values, scales, sources = zip(*operands, strict=True)
    if any(scale is None for scale in scales):
        return Operand(torch.cat(values, dim=1))
    return Operand(*(torch.cat(parts, dim=1) for parts in (values, scales, sources)))


def dense(weight: Tensor | Operand, dtype: torch.dtype) -> Tensor:
    """Return a weight as one tensor; a scaled one in ``dtype``, with the gradient of its source."""
    if isinstance(weight, Tensor):
        return weight
    if weight.scale is None or weight.source is None:
        return weight.values
    exact = (weight.values.to(weight.scale.dtype) * weight.scale[..., None]).to(dtype)
    return exact + (weight.source - weight.source.detach()).to(dtype)


def unscaled(weight: Tensor | Operand) -> Tensor:
    """Return a weight as the kernels take it.

    Raises:
        ValueError: it has a scale, which no kernel multiplies by.
    """
    if isinstance(weight, Tensor):
        return weight
    if weight.scale is not None:
        raise ValueError(NO_FP8_KERNELS)
    return weight.values
