"""Weights copied to the compute dtype, as they are or rounded to int6."""

from typing import Protocol

import torch
from torch import Tensor

from kernels.operand import Operand


class Quant(Protocol):
    """The compute copy of a weight."""

    def __call__(
        self,
        weight: Tensor,
        dtype: torch.dtype,
        qat: Tensor | None = None,
        min_step: float = 0.0,
        row_scale: Tensor | None = None,
        fp8: bool = False,
    ) -> Operand:
        """Return ``weight`` in ``dtype``, rounded to the int6 grid first if ``qat`` > 0.5.

        Each row has a symmetric grid: step = max(max|row| / 31, min_step), codes in [-31, 31]. The
        gradient passes straight through (Bengio et al. 2013, arXiv:1308.3432), so that the master
        weight is trained under the rounding that the artifact applies.

        Args:
            weight: (..., rows, cols) fp32 master weight.
            dtype: of the copy.
            qat: () fp32 lever, read on the device, so that a change needs no recompilation. None:
                never round, at no cost.
            min_step: lower bound of the step.
            row_scale: (..., rows) fp32 factor of each row, applied after the grid. Scaling the
                rows of a weight replaces a pass over the product's output.
            fp8: return the copy as the source of values in fp8, rounded from it in fp32.

        Returns:
            an ``Operand`` of values (..., rows, cols) in ``dtype``, possibly ``weight`` itself if
            nothing changes; in fp8 with a scale for each row and the copy as source.
        """
        ...
