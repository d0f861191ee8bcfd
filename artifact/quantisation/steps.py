"""Steps of rows and columns that spend an artifact's bytes where the loss minds errors most.

A weight that is rounded with step s adds ``s^2 / 24`` times its curvature to the loss. GPTQ leaves
``g_i d_j`` of the curvature: the sensitivity of row i (`artifact.quantisation.sensitivity`) and the
variance of input j that later inputs do not predict. A bit less doubles the step. So a file's loss
is least where all weights add the same: ``s_ij = s / sqrt(g_i d_j)``, a step of the row times a
factor of the column, with one s for all matrices. It replaces clips by role, and zeroes weights
that nobody would miss (reverse water-filling; Cover and Thomas, "Elements of Information Theory").
"""

import math
from collections.abc import Collection
from typing import NamedTuple

from torch import Tensor

from artifact.grid import coarse, top_code
from artifact.quantisation.gptq import factor_in_order

ROWS = ".rows"  # after a parameter's name: its sensitivities, among Hessians
MOST_RATIO = 4.0  # of a column's factor to the mean: more saves little, and codes must not overflow
LEAST_SHARE = 1e-4  # of the mean sensitivity: a row that never mattered may matter elsewhere
HEADROOM = 1.15  # GPTQ's corrections make some weights larger
GAUSSIAN = 2 * math.pi * math.e  # bits of a normal variable: half the logarithm of this variance
LOWEST, HIGHEST, HALVINGS = -40.0, 20.0, 30


class Steps(NamedTuple):
    """The grid of a bank (n, rows, cols): its steps are ``rows`` times ``columns``.

    Attributes:
        rows: (n, rows) fp32 for s = 1.
        columns: (n, cols) fp32 of few digits.
        least: (n, rows) fp32, the finest steps whose codes have their bits.
        power: (n, rows) fp32, the mean square of what a row's steps divide.
    """

    rows: Tensor
    columns: Tensor
    least: Tensor
    power: Tensor

    @classmethod
    def of(
        cls, weight: Tensor, hessian: Tensor, sensitivity: Tensor, bits: int, damping: float
    ) -> "Steps":
        """Return the steps of a bank; arguments as for `gptq`, sensitivity (n, rows)."""
        order, root = factor_in_order(hessian, damping)
        ranks = order.argsort(dim=-1)
        variance = root.diagonal(dim1=-2, dim2=-1).square().gather(-1, ranks)
        columns = variance.rsqrt()
        columns /= columns.log().mean(dim=-1, keepdim=True).exp()
        columns = coarse(columns.clamp(1 / MOST_RATIO, MOST_RATIO)).float()
        cost = (variance * columns.square()).mean(dim=-1, keepdim=True)
        least_cost = LEAST_SHARE * sensitivity.mean(dim=-1, keepdim=True)
        rows = (cost * sensitivity.maximum(least_cost).clamp_min(1e-30)).rsqrt()
        scaled = weight.float() / columns[:, None]
        least = HEADROOM / top_code(bits) * scaled.abs().amax(dim=-1)
        return cls(rows, columns, least, scaled.square().mean(dim=-1))

    def at(self, scale: float) -> Tensor:
        """Return the steps of the rows (n, rows) fp16 for s = ``scale``."""
        return coarse(self.least.maximum(scale * self.rows))

    def bits(self, scale: float) -> float:
        """Return the bits of all codes with these steps, were the weights of a row normal."""
        step = self.least.maximum(scale * self.rows).clamp_min(1e-30)
        of_rows = (1 + GAUSSIAN * self.power / step.square()).log2() / 2
        return of_rows.sum().item() * self.columns.size(-1)


def scale_of(grids: Collection[Steps], rate: float) -> float:
    """Return the s for which a code takes ``rate`` bits on average, were all weights normal."""
    codes = sum(grid.rows.numel() * grid.columns.size(-1) for grid in grids)
    low, high = LOWEST, HIGHEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        bits = sum(grid.bits(2.0**middle) for grid in grids)
        low, high = (middle, high) if bits > rate * codes else (low, middle)
    return 2.0**high
