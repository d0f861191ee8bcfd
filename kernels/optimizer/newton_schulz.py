"""Newton-Schulz on many matrices of one shape at once: three launches an iteration."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.optimizer.symmetric_product import SymmetricProduct, aligned_empty

Coefficients = Sequence[tuple[float, float, float]]


class Batch:
    """Matrices of one shape that are orthogonalised together, in the wide orientation.

    Banks of (n, rows, cols) and of (n, cols, rows) use the same batch, because tall ones are
    transposed. More matrices a product leave fewer multiprocessors idle in its last wave.

    Attributes:
        matrices: (n, short, long) in the compute dtype, rows ``pitch(long)`` apart.
        squares: (n, tiles) fp32, sums of squares of the matrices' tiles.
        products: multiplications of one iteration, without the savings by symmetry.

    Args:
        count: matrices.
        short, long: their shape.
        tiles: most tiles of a matrix, when it is written.
        dtype: of the products.
        device: of the buffers.
    """

    def __init__(
        self,
        count: int,
        short: int,
        long: int,
        tiles: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.matrices = aligned_empty(count, short, long, dtype, device).zero_()
        self.squares = torch.zeros(count, tiles, device=device)
        self.products = count * short * short * (2 * long + short)
        self._next = aligned_empty(count, short, long, dtype, device)
        gram = aligned_empty(count, short, short, dtype, device)
        self._polynomial = aligned_empty(count, short, short, dtype, device)
        self._grams = [SymmetricProduct(x, gram) for x in (self.matrices, self._next)]
        self._polynomial_of_gram = SymmetricProduct(gram, self._polynomial)

    def orthogonalise(self, coefficients: Coefficients) -> Tensor:
        """Run Newton-Schulz on ``matrices``, which it overwrites, with norms from ``squares``.

            X <- X / (|X| + 1e-7),  then for each (a, b, c)  A = X X^T,  X <- (a I + b A + c A A) X

        The division by the norm needs no pass. In the first iteration A is divided by the norm's
        square, and the polynomial by the norm. The last product includes a X, which saves a pass
        over X and its rounding. Nothing is allocated, so it may run on any stream.

        Args:
            coefficients: of at least one iteration.

        Returns:
            (n, short, long), a view that the next call changes.
        """
        x, y = self.matrices, self._next
        gram_of_x, gram_of_y = self._grams
        norms, square, power = self.squares, 2, 1
        for a, b, c in coefficients:
            gram_of_x(0.0, 0.0, 1.0, norms=norms, power=square)
            self._polynomial_of_gram(a, b, c, norms=norms, power=power)
            torch.bmm(self._polynomial, x, out=y)
            x, y, gram_of_x, gram_of_y = y, x, gram_of_y, gram_of_x
            norms, square, power = None, 0, 0
        return x
