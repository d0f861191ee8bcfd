"""The MLP: two products around a squared leaky ReLU."""

from typing import Protocol

from torch import Tensor

from kernels.operand import Operand


class Mlp(Protocol):
    """The MLP onto the residual stream."""

    def __call__(
        self,
        x: Tensor,
        up: Tensor | Operand,
        down: Tensor | Operand,
        slope: float,
        stream: Tensor | None = None,
    ) -> Tensor:
        """Return ``stream + leaky_relu(x @ up.T, slope)^2 @ down.T``.

        ReLU^2 is from Primer (So et al. 2021, arXiv:2109.08668); the leak, from parameter-golf,
        keeps a gradient on the negative side.

        Args:
            x: (..., C).
            up: (M, C).
            down: (C, M).
            slope: of the activation's negative side, before the square; not negative.
            stream: (..., C), dense; a kernel may add in its memory, so it must not be a leaf that
                requires a gradient. None: the product alone.

        Returns:
            (..., C) in x's dtype.
        """
        ...
