"""An operand of a matrix product: values, and in fp8 a factor of each row.

A row's scale is its Euclidean norm over 448, the largest number of e4m3. No element of a row is
larger than its norm, and e4m3 has three bits down to 2^-15 of its largest number, so most of a row
that is 2,048 long keeps them. A norm costs no more than a maximum, RMSNorm knows it anyway, and two
norms bound a product: so what is made of it can be rounded before the whole row is known.
"""

from typing import NamedTuple

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST_FP8 = 448.0
LEAST_SCALE = 1e-30  # of a row of zeros, too; anything finite may be divided by it
NO_FP8_KERNEL = "backend kernels takes both operands of an fp8 product in fp8, or neither"


class Operand(NamedTuple):
    """A matrix ``values * scale[..., None]``, or a stack of matrices.

    Attributes:
        values: (..., rows, cols) in the compute dtype, or with a scale in fp8 (e4m3).
        scale: (..., rows) fp32; None: there is no factor.
        source: (..., rows, cols), the matrix before it was rounded to fp8, in the compute dtype.
            Gradients are those of a product of the sources (straight through). None without a
            scale.
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


def rounded(exact: Tensor, source: Tensor) -> Operand:
    """Return a matrix (..., rows, cols) in fp8, with ``source`` as what it was."""
    exact = exact.detach()
    scale = (exact.float().norm(dim=-1) / LARGEST_FP8).clamp_min(LEAST_SCALE)
    return scaled_by(scale, exact, source)


def scaled_by(scale: Tensor, exact: Tensor, source: Tensor) -> Operand:
    """Return a matrix (..., rows, cols) in fp8 by a scale (..., rows) fp32."""
    return Operand((exact.detach() / scale[..., None]).to(FP8), scale, source)


def dense(operand: Tensor | Operand, dtype: torch.dtype) -> Tensor:
    """Return an operand as one tensor; a scaled one in ``dtype``, its gradient the source's."""
    if isinstance(operand, Tensor):
        return operand
    if operand.scale is None or operand.source is None:
        return operand.values
    exact = (operand.values.to(operand.scale.dtype) * operand.scale[..., None]).to(dtype)
    return exact + (operand.source - operand.source.detach()).to(dtype)


def sourced(operand: Tensor | Operand) -> Tensor:
    """Return an operand as it was before it was rounded."""
    if isinstance(operand, Tensor):
        return operand
    return operand.values if operand.source is None else operand.source


def unscaled(operand: Tensor | Operand) -> Tensor:
    """Return an operand as the kernels without fp8 take it.

    Raises:
        ValueError: it has a scale, which they do not multiply by.
    """
    if isinstance(operand, Tensor):
        return operand
    if operand.scale is not None:
        raise ValueError("backend kernels has no fp8 products but the MLP's")
    return operand.values


def in_fp8(*operands: Tensor | Operand) -> bool:
    """Return whether the operands of one or more products have scales.

    Raises:
        ValueError: some have and some have not, for which there is no kernel.
    """
    scaled = {isinstance(each, Operand) and each.scale is not None for each in operands}
    if len(scaled) > 1:
        raise ValueError(NO_FP8_KERNEL)
    return scaled.pop()
