"""Newton-Schulz in batches against its formula, and its matrices' norms."""

import pytest
import torch
from torch import Tensor

from kernels.optimizer.newton_schulz import Batch, Coefficients
from kernels.optimizer.symmetric_product import LAUNCH
from tests.kernels.tools.compare import relative_error
from tests.kernels.tools.twins import DEVICE, SHARE_OF_BF16, poisoned

# Two different polynomials: a schedule, not one for all.
COEFFICIENTS = [(3.4445, -4.7750, 2.0315), (1.875, -1.25, 0.375)]
# The three batches of preset seed: (matrices, short, long).
REAL = [(22, 512, 512), (22, 256, 512), (22, 512, 1536)]
# One row; odd sizes; a sum of several steps; rows that begin as the TMA wants them; several tiles.
SIDE = LAUNCH[4].rows
SHAPES = {
    "row": (3, 1, 9),
    "odd": (2, 5, 7),
    "wide": (2, 20, 8 * SIDE),
    "aligned": (2, SIDE + 8, SIDE + 8),
    "square": (3, 2 * SIDE + 1, 2 * SIDE + 1),
}


def by_formula(matrices: Tensor, coefficients: Coefficients) -> Tensor:
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_polynomials_one_after_the_other(shape: tuple[int, int, int]):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    with poisoned():
        batch = Batch(*shape, tiles=3, dtype=torch.float32, device=torch.device(DEVICE))
    batch.matrices.copy_(matrices)
    parts = torch.tensor([0.5, 0.25, 0.25])  # a norm is the sum of its tiles' parts
    batch.squares.copy_(matrices.square().sum((1, 2))[:, None] * parts)
    expected = by_formula(matrices.double(), COEFFICIENTS).to(DEVICE)
    assert relative_error(batch.orthogonalise(COEFFICIENTS), expected) < 1e-5


def test_a_matrix_of_zeros_stays():
    batch = Batch(2, 3, 4, tiles=1, dtype=torch.float32, device=torch.device(DEVICE))
    assert not batch.orthogonalise(COEFFICIENTS).any()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", REAL, ids=str)
def test_bf16_at_real_sizes_is_as_near_as_the_formulas_and_bits_stay(shape: tuple[int, int, int]):
    torch.manual_seed(0)
    matrices = torch.randn(shape, device=DEVICE).bfloat16()
    batch = Batch(*shape, tiles=1, dtype=torch.bfloat16, device=torch.device(DEVICE))
    batch.squares.copy_(matrices.double().square().sum((1, 2))[:, None])
    five = COEFFICIENTS[:1] * 5
    runs = []
    for _ in range(20):
        batch.matrices.copy_(matrices)
        runs.append(batch.orthogonalise(five).clone())
    exact = by_formula(matrices.double(), five)
    plain = relative_error(by_formula(matrices, five), exact)
    assert relative_error(runs[0], exact) <= SHARE_OF_BF16 * plain
    assert all(torch.equal(run, runs[0]) for run in runs)
