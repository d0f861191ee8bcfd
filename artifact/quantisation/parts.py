"""Tensors of an artifact that are parts of another: factors of its columns, corrections.

``NAME.columns`` (..., cols) multiplies the columns of ``NAME`` (..., rows, cols). A correction of a
bank is three tensors: ``NAME.at`` (m,), the matrices that have one, ``NAME.left`` (m, rank, rows)
and ``NAME.right`` (m, rank, cols): ``left[i].T @ right[i]`` is added to matrix ``at[i]``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from artifact.stored import Stored
from artifact.trellis import order_of

PARTS = ("at", "left", "right")
COLUMNS = ".columns"


def corrected_by(name: str) -> str:
    """Return the tensor that ``name`` corrects or scales by columns; "" if it does neither."""
    bank, _, part = name.rpartition(".")
    return bank if part in PARTS or f".{part}" == COLUMNS else ""


def read_back(stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """Return the weights that are stored, fp32, as `put_back` makes them whole.

    Raises:
        ValueError: as `put_back`.
    """
    found = {name: tensor.restore() for name, tensor in stored.items() if not tensor.is_trellis}
    for name, tensor in stored.items():
        if tensor.is_trellis:
            factors = found.get(name + COLUMNS)
            if factors is not None and factors.shape != _of_columns(tensor.values):
                raise ValueError(f"the columns of tensor {name} do not fit it")
            order = None if factors is None else order_of(factors)
            found[name] = tensor.restore(order)
    return put_back(found)


def _of_columns(weight: Tensor) -> torch.Size:
    """Return the shape of the factors of a tensor's columns."""
    return weight.shape[:-2] + weight.shape[-1:]


def put_back(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``weights`` with their columns multiplied by their factors, and corrections added.

    Raises:
        ValueError: factors or a correction that fit no tensor.
    """
    found = dict(weights)
    for name in [name.removesuffix(COLUMNS) for name in weights if name.endswith(COLUMNS)]:
        factors, weight = found.pop(name + COLUMNS), found.get(name)
        if weight is None or factors.shape != _of_columns(weight):
            raise ValueError(f"the columns of tensor {name} do not fit it")
        found[name] = weight * factors.unsqueeze(-2)
    for name in [name.removesuffix(".at") for name in weights if name.endswith(".at")]:
        at, left, right = (found.pop(f"{name}.{part}", None) for part in PARTS)
        bank = found.get(name)
        if bank is None or at is None or left is None or right is None or bank.ndim != 3:
            raise ValueError(f"the correction of tensor {name} is not whole")
        number, rank = at.numel(), left.size(1) if left.ndim == 3 else -1
        wanted = [(number,), (number, rank, bank.size(1)), (number, rank, bank.size(2))]
        inside = (at >= 0).all() and (at < len(bank)).all() and number <= len(bank)
        if [part.shape for part in (at, left, right)] != wanted or not inside:
            raise ValueError(f"the correction of tensor {name} does not fit it")
        found[name] = bank.index_add(0, at.long(), left.mT @ right)
    return found
