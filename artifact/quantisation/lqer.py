"""Corrections of low rank for the matrices with the largest rounding errors.

From Zhang et al., "LQER: low-rank quantization error reconstruction for LLMs" (2024,
arXiv:2402.02446), with the whole Hessian in place of one scale per input. Of all products of a
rank, this one leaves the least error in the matrix' output.

`artifact.quantisation.parts` says how an artifact holds them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from artifact.grid import nearest, row_steps
from artifact.quantisation.gptq import factor
from artifact.quantisation.parts import read_back
from artifact.stored import Stored

BITS = 8
DAMPING = 0.01
MOST_MATRICES = 2048  # fp16 holds every whole number up to here


def correct(
    weights: Mapping[str, Tensor],
    stored: Mapping[str, Stored],
    hessians: Mapping[str, Tensor],
    rank: int,
    matrices: int,
) -> dict[str, Stored]:
    """Return corrections of the ``matrices`` matrices whose outputs have the largest errors.

    Args:
        weights: (n, rows, cols) banks, and others that are left alone.
        stored: the same, coded, with the factors of their columns.
        hessians: by name of a bank.
        rank: of a correction.
        matrices: how many, over all banks.
    """
    restored = read_back(stored)
    residuals = {
        name: weight.detach().float() - restored[name]
        for name, weight in weights.items()
        if name in hessians and weight.ndim == 3 and len(weight) <= MOST_MATRICES
    }
    errors = {name: output_error(residuals[name], hessians[name]) for name in residuals}
    every = sorted((error for of in errors.values() for error in of.tolist()), reverse=True)
    least = every[min(matrices, len(every)) - 1] if matrices and every else torch.inf
    corrections: dict[str, Stored] = {}
    for name, residual in residuals.items():
        at = (errors[name] >= least).nonzero()[:, 0]
        if len(at):
            left, right = best_product(residual[at], hessians[name][at], rank)
            corrections[f"{name}.at"] = Stored("fp16", at.half())
            corrections[f"{name}.left"] = _coded(left)
            corrections[f"{name}.right"] = _coded(right)
    return corrections


def output_error(residual: Tensor, hessian: Tensor) -> Tensor:
    """Return ``tr(D H D^T)`` of each matrix' residual D, (n,) fp32."""
    return ((residual @ hessian) * residual).sum(dim=(-2, -1))


def best_product(residual: Tensor, hessian: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return left (m, rank, rows) and right (m, rank, cols) of the best ``left.T @ right``.

    With ``H = R R^T``, the output's error ``|D X^T|`` is ``|D R|``; its largest singular values go.

    Args:
        residual: (m, rows, cols) fp32.
        hessian: (m, cols, cols) fp32, of the inputs.
        rank: cut to what the matrices have.
    """
    root = factor(hessian, DAMPING)
    left, values, right = torch.linalg.svd(residual @ root, full_matrices=False)
    share = values[:, :rank, None].sqrt()
    right = torch.linalg.solve_triangular(root, right[:, :rank] * share, upper=True, left=False)
    return (left.mT[:, :rank] * share).contiguous(), right


def _coded(rows: Tensor) -> Stored:
    step = row_steps(rows, BITS)
    codes = nearest(rows, step, BITS)
    return Stored(f"int{BITS}", codes, step, role="correction")
