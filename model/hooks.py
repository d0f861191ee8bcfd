"""The hook that reads or replaces a network's matrix products."""

from collections.abc import Collection
from typing import NamedTuple, Protocol

from torch import Tensor


class Site(NamedTuple):
    """Where in the network a matrix product happens.

    Attributes:
        matrix: "q", "k", "v", "o", "up", "down" or "head"; "attention" or "mlp" for a whole branch,
            as if it were a product of its normed input.
        layer: whose weights; 0 for the head.
        visit: number of the visit, its index in the plan; 0 for the head.
    """

    matrix: str
    layer: int
    visit: int


HEAD = Site("head", layer=0, visit=0)


class ProductHook(Protocol):
    """Reads the matrix products of a forward pass, or replaces them."""

    @property
    def matrices(self) -> Collection[str]:
        """Matrices whose products the hook is passed. The other products stay fused."""
        ...

    @property
    def replaces(self) -> bool:
        """Whether the network computes with what the hook returns.

        If not, products are computed for the hook besides the fused operations, whose result stays
        the same bit for bit.
        """
        ...

    def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Return the product to use instead of ``y``; y itself if the hook only reads.

        Args:
            site: of the product.
            x: (B, T, in), its input.
            y: (B, T, out), its output. That of v contains the value embedding; those of o, down
                and branches contain the residual stream, unless the block has two lanes. Logits are
                never whole in memory, so for the head y is x, and the head reads what the hook
                returns.
        """
        ...


def wants(hook: ProductHook | None, *matrices: str) -> bool:
    """Return whether the hook is passed products of any of these matrices."""
    return hook is not None and any(matrix in hook.matrices for matrix in matrices)


def hooked(hook: ProductHook | None, site: Site, x: Tensor, y: Tensor) -> Tensor:
    """Return the hook's product, or y if the hook is not passed this matrix's."""
    return y if hook is None or site.matrix not in hook.matrices else hook(site, x, y)
