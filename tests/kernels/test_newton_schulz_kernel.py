"""Newton-Schulz in batches against its formula, and its matrices' norms."""

import pytest
import torch

from kernels.newton_schulz import FLAT, Batch
from tests.kernels.compare import relative_error
from tests.kernels.twins import DEVICE, poisoned

# Two different polynomials: a schedule, not one for all.
COEFFICIENTS = [(3.4445, -4.7750, 2.0315), (1.875, -1.25, 0.375)]
# One row; odd sizes; more than a program of one matrix, and a program over several.
SHAPES = {"row": (3, 1, 9), "odd": (2, 5, 7), "wide": (2, 20, FLAT // 16), "square": (3, 33, 33)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_polynomials_one_after_the_other(shape: tuple[int, int, int]):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    with poisoned():
        batch = Batch(*shape, tiles=3, dtype=torch.float32, device=torch.device(DEVICE))
    batch.matrices.copy_(matrices)
    parts = torch.tensor([0.5, 0.25, 0.25])  # a norm is the sum of its tiles' parts
    batch.squares.copy_(matrices.square().sum((1, 2))[:, None] * parts)
    x = matrices.double() / matrices.double().norm(dim=(1, 2), keepdim=True)
    for a, b, c in COEFFICIENTS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    assert relative_error(batch.orthogonalise(COEFFICIENTS), x.to(DEVICE)) < 1e-5


def test_a_matrix_of_zeros_stays():
    batch = Batch(2, 3, 4, tiles=1, dtype=torch.float32, device=torch.device(DEVICE))
    assert not batch.orthogonalise(COEFFICIENTS).any()
