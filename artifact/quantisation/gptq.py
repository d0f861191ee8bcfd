"""GPTQ: choose codes that together change a layer's output least.

From Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained
transformers" (2022, arXiv:2210.17323). Columns are rounded one after another, and the later columns
compensate each error. All matrices of a bank are rounded together, so that a GPU runs few large
operations.
"""

import torch
from torch import Tensor

from artifact.grid import top_code
from artifact.quantisation.paths import best_paths
from artifact.trellis import order_of

BLOCK = 128  # columns whose corrections reach the rest of the matrix together, in one product
LEAST_DAMPING, MOST_DAMPING = 1e-6, 10.0


def gptq(
    weight: Tensor,
    hessian: Tensor,
    step: Tensor,
    bits: int,
    damping: float = 0.01,
    columns: Tensor | None = None,
    trellis: bool = False,
) -> Tensor:
    """Return codes of least ``tr(D H D^T)`` for ``D = codes * step - weight``, greedily.

    Columns go by falling ``H_jj`` (GPTQ's act-order): the inputs that matter most are rounded while
    there is most left to correct with.

    The work is ``2 n rows cols^2`` FLOPs and a Cholesky factor and an inverse of each Hessian.

    Args:
        weight: (n, rows, cols), floating point.
        hessian: (n, cols, cols) fp32, ``X^T X`` of each matrix' inputs, up to a factor.
        step: (n, rows), of `artifact.grid.row_steps`.
        bits: 2 to 8.
        damping: share of the mean of H's diagonal that is added to it.
        columns: (n, cols) fp32, factors of the steps by column; None: all 1.
        trellis: whether codes are those of `artifact.trellis`, whose order they then go by.

    Returns:
        (n, rows, cols) int8, each in [-top, top].

    Raises:
        ValueError: a Hessian is not finite.
    """
    order = None
    if trellis:
        every = weight.new_ones(len(weight), weight.size(-1)) if columns is None else columns
        order = order_of(every)
    order, root = factor_in_order(hessian, damping, order)
    left = weight.detach().float().gather(-1, order[:, None].expand_as(weight))
    identity = torch.eye(root.size(-1), device=root.device)
    # U^T U = H^-1: row j of U compensates an error in column j in the columns after it.
    upper = torch.linalg.solve_triangular(root, identity, upper=True)
    codes, top = torch.empty_like(left), top_code(bits)
    step = step.float().unsqueeze(-1).expand_as(left)
    if columns is not None:
        step = step * columns.gather(-1, order)[:, None]
    state = torch.zeros(left.shape[:-1], dtype=torch.int64, device=left.device)
    for begin in range(0, left.size(-1), BLOCK):
        block = slice(begin, begin + BLOCK)
        of_block = left[..., block], upper[:, block, block], step[..., block], top
        if trellis:
            codes[..., block], errors, state = best_paths(*of_block, state)
        else:
            errors = _round_block(*of_block, codes[..., block])
        left[..., begin + BLOCK :] -= errors @ upper[:, block, begin + BLOCK :]
    return codes.gather(-1, order.argsort(dim=-1)[:, None].expand_as(codes)).to(torch.int8)


def factor_in_order(
    hessian: Tensor, damping: float, order: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the columns' order (n, cols), and `factor` of H in it.

    Unless one is given, columns go by falling ``H_jj``.
    """
    if order is None:
        order = hessian.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True)
    rows = hessian.gather(-2, order[..., None].expand_as(hessian))
    return order, factor(rows.gather(-1, order[:, None].expand_as(rows)), damping)


def factor(hessian: Tensor, damping: float) -> Tensor:
    """Return upper triangular R (n, cols, cols) with ``R R^T = H + damping * mean(diag H) * I``.

    If rounding leaves H indefinite, the damping grows tenfold until it is definite.

    Raises:
        ValueError: a Hessian is not finite, or no damping helps.
    """
    if not torch.isfinite(hessian).all():  # a GPU's Cholesky does not report it
        raise ValueError("a Hessian is not finite: its model has diverged")
    identity = torch.eye(hessian.size(-1), dtype=hessian.dtype, device=hessian.device)
    level = hessian.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[:, None, None]
    level = torch.where(level > 0, level, 1.0)  # an input that is always zero
    while damping <= MOST_DAMPING:
        # Cholesky from the last column on, by reversing H.
        damped = (hessian + damping * level * identity).flip(-2, -1)
        lower, info = torch.linalg.cholesky_ex(damped)
        if not info.any():
            return lower.flip(-2, -1)
        damping = max(10 * damping, LEAST_DAMPING)
    raise ValueError("a Hessian is far from positive: it is not an X^T X")


def _round_block(left: Tensor, upper: Tensor, step: Tensor, top: int, codes: Tensor) -> Tensor:
    """Round a block's columns (n, rows, b) into ``codes``; return the errors to compensate."""
    errors = torch.empty_like(left)
    for column in range(left.size(-1)):
        value = left[..., column, None]
        width = step[..., column, None]
        code = (value / width).round_().clamp_(-top, top)
        error = (value - code * width) / upper[:, column, column, None, None]
        left[..., column:] -= error * upper[:, column, None, column:]
        codes[..., column, None], errors[..., column, None] = code, error
    return errors
