"""The MLP: two products around a squared leaky ReLU."""

from typing import Protocol

from torch import Tensor

from kernels.operand import LARGEST_FP8, Operand

LEAST_LARGEST = 1e-12  # of up's scales; its square is far from the smallest fp32


def bound(slope: float) -> float:
    """Return the activation's scale in fp8, for a scale of 1 of x's row and of all rows of up.

    No sum of products exceeds the norms of its two rows, each 448 times a scale: rows of the
    activation cannot overflow. Rounding to fp8 makes a norm larger by 1/16 at most.
    """
    product = LARGEST_FP8**2 * 1.13 * max(1.0, slope)
    return product**2 / LARGEST_FP8


class Mlp(Protocol):
    """The MLP onto the residual stream."""

    def __call__(
        self,
        x: Tensor | Operand,
        up: Tensor | Operand,
        down: Tensor | Operand,
        slope: float,
        stream: Tensor | None = None,
    ) -> Tensor:
        """Return ``stream + leaky_relu(x @ up.T, slope)^2 @ down.T``.

        ReLU^2 is from Primer (So et al. 2021, arXiv:2109.08668); the leak, from parameter-golf,
        keeps a gradient on the negative side.

        Args:
            x: (..., C). In fp8 it, up and down have scales, and the activation is rounded to
                fp8, too: a row's scale is ``bound(slope)`` times the square of x's scale and up's
                largest, at least ``LEAST_LARGEST``.
            up: (M, C).
            down: (C, M).
            slope: of the activation's negative side, before the square; not negative.
            stream: (..., C), dense; a kernel may add in its memory, so it must not be a leaf that
                requires a gradient. None: the product alone.

        Returns:
            (..., C) in x's dtype.
        """
        ...
