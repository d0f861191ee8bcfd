"""Symmetric products against their formula: sizes, exact symmetry, coefficients, norms."""

import pytest
import torch
from torch import Tensor

from kernels.optimizer.symmetric_product import LAUNCH, SymmetricProduct, aligned_empty
from tests.kernels.tools.compare import relative_error
from tests.kernels.tools.twins import DEVICE, FP32_SUMS, SHARE_OF_BF16, poisoned

SIDE = LAUNCH[4].rows
# One element; odd; less than a tile; a tile; one more; several, the last not full; many small ones.
SIDES = [1, 7, SIDE - 8, SIDE, SIDE + 1, 3 * SIDE - 5]
# Depths: less than a step; a step; not a multiple; that of a short sum under a larger product.
WIDTHS = [1, 5, SIDE, 2 * SIDE + 9]
# Of the first iteration, of the others, and each coefficient by itself.
POLYNOMIALS = [(3.4445, -4.7750, 2.0315), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
# The three batches of preset seed: (matrices, side, width).
REAL = [(22, 512, 512), (22, 256, 512), (22, 512, 1536)]


def on_device(values: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    count, rows, columns = values.shape
    return aligned_empty(count, rows, columns, dtype, torch.device(DEVICE)).copy_(values)


def by_kernel(matrices: Tensor, a: float, b: float, c: float, **norms) -> Tensor:
    """The products, in memory that was full of NaN."""
    count, side, _ = matrices.shape
    with poisoned():
        products = aligned_empty(count, side, side, matrices.dtype, matrices.device)
    SymmetricProduct(matrices, products)(a, b, c, **norms)
    return products


def formula(matrices: Tensor, a: float, b: float, c: float) -> Tensor:
    m = matrices.double()
    unit = torch.eye(m.size(1), dtype=m.dtype, device=m.device)
    return a * unit + c * m @ m.mT + (b * m if b else 0.0)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("side", SIDES)
def test_products_of_any_size(side: int, width: int):
    torch.manual_seed(side)
    matrices = on_device(torch.randn(3, side, width))
    got = by_kernel(matrices, 0.0, 0.0, 1.0)
    assert relative_error(got, formula(matrices, 0.0, 0.0, 1.0)) < FP32_SUMS
    assert torch.equal(got, got.mT)


@pytest.mark.parametrize("polynomial", POLYNOMIALS, ids=str)
@pytest.mark.parametrize("side", SIDES)
def test_polynomials(side: int, polynomial: tuple[float, float, float]):
    torch.manual_seed(side)
    matrices = on_device(torch.randn(2, side, side))
    matrices.copy_(matrices + matrices.mT)  # M itself is symmetric where it is added
    got = by_kernel(matrices, *polynomial)
    assert relative_error(got, formula(matrices, *polynomial)) < FP32_SUMS
    assert torch.equal(got, got.mT)


@pytest.mark.parametrize("power", [1, 2])
def test_norms_come_in_parts_and_a_little_is_added(power: int):
    torch.manual_seed(power)
    matrices = on_device(torch.randn(3, SIDE + 2, SIDE + 2))
    matrices.copy_(matrices + matrices.mT)
    norms = torch.tensor([2.0, 0.5, 0.0], device=DEVICE)
    parts = torch.tensor([0.5, 0.25, 0.25], device=DEVICE)
    got = by_kernel(matrices, 1.5, -0.5, 0.25, norms=norms.square()[:, None] * parts, power=power)
    expected = formula(matrices, 1.5, -0.5, 0.25) / (norms.double()[:, None, None] + 1e-7) ** power
    for one, other in zip(got, expected, strict=True):
        assert relative_error(one, other) < FP32_SUMS


def test_all_of_a_matrix_is_written_and_nothing_else():
    side, rows = 2 * SIDE + 3, 2 * SIDE + 8
    matrices = on_device(torch.randn(4, side, 9))
    padded = torch.full((4, side, rows), torch.nan, device=DEVICE)
    SymmetricProduct(matrices, padded[..., :side])(0.0, 0.0, 1.0)
    SymmetricProduct(matrices[1:3], padded[1:3, :, :side])(2.0, 0.0, 0.0)
    assert padded[..., side:].isnan().all()
    expected = formula(matrices, 0.0, 0.0, 1.0)
    expected[1:3] = 2 * torch.eye(side)
    assert relative_error(padded[..., :side], expected) < FP32_SUMS


def test_only_what_is_on_or_below_the_diagonal_is_read():
    """Of M itself: of the two halves of a nearly symmetric one, the lower counts."""
    matrices = on_device(torch.randn(1, SIDE + 8, SIDE + 8))
    got = by_kernel(matrices, 0.0, 1.0, 0.0)
    lower = matrices.tril()
    assert torch.equal(got, lower + lower.tril(-1).mT)


def test_matrices_that_are_not_square_are_not_added():
    with pytest.raises(ValueError, match="square"):
        by_kernel(on_device(torch.randn(1, 8, 9)), 0.0, 1.0, 0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*REAL, (5, 320, 328), (3, 96, 200)], ids=str)
def test_bf16_is_as_near_as_cublas_and_bits_stay(shape: tuple[int, int, int]):
    torch.manual_seed(0)
    x = torch.randn(shape, device=DEVICE) / shape[2] ** 0.5
    x = on_device(x, torch.bfloat16)
    a, b, c = POLYNOMIALS[0]
    gram = by_kernel(x, 0.0, 0.0, 1.0)
    assert torch.equal(gram, gram.mT)
    exact = formula(x, 0.0, 0.0, 1.0)
    assert relative_error(gram, exact) <= SHARE_OF_BF16 * relative_error(torch.bmm(x, x.mT), exact)

    got = by_kernel(gram, a, b, c)
    assert torch.equal(got, got.mT)
    exact = formula(gram, a, b, c)
    unit = torch.eye(shape[1], dtype=x.dtype, device=DEVICE)
    plain = (a * unit + b * gram).baddbmm_(gram, gram, alpha=c)
    assert relative_error(got, exact) <= SHARE_OF_BF16 * relative_error(plain, exact)

    for _ in range(20):
        assert torch.equal(by_kernel(x, 0.0, 0.0, 1.0), gram)
        assert torch.equal(by_kernel(gram, a, b, c), got)
