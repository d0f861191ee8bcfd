"""Contexts of codes by the spread of their row and of their column.

Where steps have factors by column, codes spread differently in both directions. A row's class is
the logarithm of its mean magnitude, a column's that of its codes over their rows'. Their sum says
how wide the distribution of a code is, which is its context.
"""

from collections.abc import Sequence

import numpy as np

AN_OCTAVE = 4  # classes: 2 cost 0.02 bits a code more, 8 take more bytes than they save
LOW, CONTEXTS = -24, 48  # sums of classes from a mean magnitude of 2^-6 to 2^5.75
MIDDLE = 128  # classes are bytes


def classes(bank: np.ndarray) -> np.ndarray:
    """Return the class of each row, then of each column of a bank (n, rows, cols), uint8."""
    size = np.abs(bank.astype(np.float32))
    of_rows = np.maximum(size.mean(axis=2), 2.0 ** (LOW / AN_OCTAVE))
    of_columns = (1 / of_rows)[:, None] @ size / bank.shape[1]
    spread = np.concatenate([of_rows.ravel(), of_columns.ravel()])
    logs = np.rint(AN_OCTAVE * np.log2(np.maximum(spread, 2.0**-20)))
    return np.clip(logs + MIDDLE, 0, 255).astype(np.uint8)


def contexts(found: np.ndarray, shapes: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Return the context of each code, uint8, of banks (n, rows, cols) one after the other.

    Args:
        found: `classes` of all banks.
        shapes: of the banks.
    """
    parts, left = [np.empty(0, np.uint8)], found.astype(np.int16) - MIDDLE
    for n, rows, columns in shapes:
        of_rows, of_columns, left = np.split(left, (n * rows, n * (rows + columns)))
        total = of_rows.reshape(n, rows, 1) + of_columns.reshape(n, 1, columns)
        parts.append(np.clip(total - LOW, 0, CONTEXTS - 1).astype(np.uint8).ravel())
    return np.concatenate(parts)
