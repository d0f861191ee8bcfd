"""Matrix products: alone, onto the residual stream, and several of one input."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from kernels.operand import Operand


class Linear(Protocol):
    """A matrix product."""

    def __call__(self, x: Tensor | Operand, weight: Tensor | Operand) -> Tensor:
        """Return ``x @ weight.T``: x (..., in), weight (out, in) -> (..., out).

        Gradients are those of a product of the sources.
        """
        ...


class LinearAdd(Protocol):
    """A matrix product onto the residual stream."""

    def __call__(self, stream: Tensor, x: Tensor | Operand, weight: Tensor | Operand) -> Tensor:
        """Return ``stream + x @ weight.T``.

        A kernel may add in stream's memory. Use only the returned stream afterwards.

        Args:
            stream: (..., out), dense. Not a leaf that requires a gradient, because autograd
                forbids in-place changes of such a leaf.
            x: (..., in).
            weight: (out, in).

        Returns:
            (..., out) in stream's dtype.
        """
        ...


class Projections(Protocol):
    """Several projections of one input."""

    def __call__(
        self,
        x: Tensor | Operand,
        weight: Tensor | Operand,
        sizes: Sequence[int],
        lookup: Tensor | None = None,
        lookup_weight: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return several projections of x by one product, for example Q, K and V.

        Args:
            x: (..., in).
            weight: (sum(sizes), in).
            sizes: width of each projection.
            lookup: (..., E), a value embedding (parameter-golf PR #1081), with lookup_weight
                (sizes[-1], E): ``lookup @ lookup_weight.T`` is added to the last projection.

        Returns:
            A tensor (..., size) for each size; they may be views of one tensor.
        """
        ...
