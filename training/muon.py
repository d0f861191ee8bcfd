"""Muon: momentum, orthogonalised, for banks of matrices (Jordan et al. 2024)."""

from collections.abc import Mapping

import torch
from torch import Tensor

# Coefficients of the quintic iteration, from Keller Jordan's Muon: they push all singular values
# towards one fast, rather than to it exactly.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrix to each, roughly: singular values land near one.

    Newton-Schulz: ``X <- a X + (b A + c A A) X`` with ``A = X X^T``, on the wide orientation, from
    ``X = G / |G|``.

    Args:
        matrices: (n, rows, cols).
        steps: iterations; five are usual.
        dtype: of the products; bf16 is enough and fast on a GPU.

    Returns:
        (n, rows, cols) in ``dtype``.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Muon over banks, each (n, rows, cols) fp32, with decoupled weight decay.

        momentum <- beta * momentum + gradient
        update    = orthogonalise(gradient + beta * momentum) * sqrt(max(1, rows / cols))
        weight   <- (1 - lr * decay) * weight - lr * update

    Args:
        banks: parameters by name.
        steps: Newton-Schulz iterations.
        weight_decay: decoupled.
        dtype: of the Newton-Schulz products.
    """

    def __init__(
        self, banks: Mapping[str, Tensor], steps: int, weight_decay: float, dtype: torch.dtype
    ) -> None:
        self.banks = dict(banks)
        self.momentum = {name: torch.zeros_like(bank) for name, bank in self.banks.items()}
        self.steps, self.weight_decay, self.dtype = steps, weight_decay, dtype

    @torch.no_grad()
    def step(self, lr: float, beta: float) -> None:
        """Apply the gradients in ``grad``."""
        for name, bank in self.banks.items():
            if bank.grad is None:
                continue
            momentum = self.momentum[name].mul_(beta).add_(bank.grad)
            nesterov = bank.grad.add(momentum, alpha=beta)
            update = orthogonalise(nesterov, self.steps, self.dtype)
            stretch = max(1.0, bank.size(-2) / bank.size(-1)) ** 0.5
            bank.mul_(1 - lr * self.weight_decay).add_(update.to(bank.dtype), alpha=-lr * stretch)
