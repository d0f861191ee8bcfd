"""GPTQ against its greedy rule solved anew for every column, in fp64."""

import pytest
import torch

from artifact.grid import dequantise, nearest, row_steps
from artifact.quantisation.gptq import factor, gptq

BITS = 4


def bank(n: int = 3, rows: int = 6, cols: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and Hessians of inputs that are correlated and of very different sizes."""
    generator = torch.Generator().manual_seed(cols)
    mixing = torch.randn(n, cols, cols, generator=generator)
    sizes = torch.rand(cols, generator=generator).mul(4).exp()
    inputs = torch.randn(n, 4 * cols, cols, generator=generator) @ mixing * sizes
    return torch.randn(n, rows, cols, generator=generator), inputs.mT @ inputs


def output_error(weight: torch.Tensor, codes: torch.Tensor, step: torch.Tensor, hessian):
    change = dequantise(codes, step).double() - weight.double()
    return ((change @ hessian.double()) * change).sum(dim=(-2, -1))


def naive(weight: torch.Tensor, hessian: torch.Tensor, step: torch.Tensor, damping: float):
    """One matrix: round a column, then move all later ones to where they make up for it best.

    ``step`` is (rows,) or (rows, cols).
    """
    left, step = weight.double().clone(), step.double().view(len(weight), -1).expand_as(weight)
    hessian = hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(
        len(hessian), dtype=torch.float64
    )
    order = hessian.diagonal().argsort(descending=True).tolist()
    codes = torch.empty_like(left)
    for place, column in enumerate(order):
        rest = order[place + 1 :]
        codes[:, column] = (left[:, column] / step[:, column]).round().clamp(-7, 7)
        change = codes[:, column] * step[:, column] - left[:, column]
        answer = torch.linalg.solve(hessian[rest][:, rest], hessian[rest][:, column])
        left[:, rest] -= change[:, None] * answer
    return codes.to(torch.int8)


@pytest.mark.parametrize("cols", [1, 20, 150])
def test_equals_the_greedy_rule(cols: int) -> None:
    """150 columns are more than a block. fp32 may round a weight near the middle the other way,
    after which all codes of its row may differ."""
    weight, hessian = bank(cols=cols)
    step = row_steps(weight, BITS)
    codes = gptq(weight, hessian, step, BITS, damping=0.05)
    expected = torch.stack(
        [naive(*of_matrix, damping=0.05) for of_matrix in zip(weight, hessian, step, strict=True)]
    )
    assert codes.dtype == torch.int8
    assert (codes == expected).all(dim=-1).float().mean() > 0.8
    found, wanted = (output_error(weight, c, step, hessian) for c in (codes, expected))
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0)


def test_equals_the_greedy_rule_with_factors_of_columns() -> None:
    weight, hessian = bank()
    step, columns = row_steps(weight, BITS), torch.rand(3, 20) * 3 + 0.5
    codes = gptq(weight, hessian, step, BITS, 0.05, columns)
    steps = step.float()[..., None] * columns[:, None]
    each = zip(weight, hessian, steps, strict=True)
    expected = torch.stack([naive(*of_matrix, damping=0.05) for of_matrix in each])
    assert (codes == expected).all(dim=-1).float().mean() > 0.8
    assert not torch.equal(codes, gptq(weight, hessian, step, BITS, 0.05))


def test_changes_the_output_less_than_the_nearest_codes() -> None:
    weight, hessian = bank(rows=40, cols=64)
    step = row_steps(weight, BITS)
    ours = output_error(weight, gptq(weight, hessian, step, BITS), step, hessian)
    assert (ours < 0.5 * output_error(weight, nearest(weight, step, BITS), step, hessian)).all()


def test_independent_inputs_leave_the_nearest_codes() -> None:
    weight, _ = bank()
    step = row_steps(weight, BITS)
    identity = torch.eye(weight.size(-1)).expand(len(weight), -1, -1)
    assert torch.equal(gptq(weight, identity, step, BITS), nearest(weight, step, BITS))


def test_codes_stay_inside_their_bits() -> None:
    weight, hessian = bank()
    codes = gptq(weight, hessian, row_steps(weight, BITS, clip=0.5), BITS)
    assert codes.min() == -7 and codes.max() == 7


def test_inputs_that_never_were_do_no_harm() -> None:
    weight, hessian = bank()
    hessian[:, 3], hessian[:, :, 3], hessian[1] = 0, 0, 0
    step = row_steps(weight, BITS)
    codes, plain = gptq(weight, hessian, step, BITS), nearest(weight, step, BITS)
    assert torch.equal(codes[..., 3], plain[..., 3]) and torch.equal(codes[1], plain[1])


def test_an_indefinite_hessian_is_damped_until_it_is_not() -> None:
    hessian = torch.diag(torch.tensor([4.0, 1.0, -0.1]))[None]
    root = factor(hessian, damping=0.001)
    damped = root @ root.mT - hessian
    assert torch.equal(damped, damped.diagonal(dim1=1, dim2=2).diag_embed())
    assert 0.1 < damped[0, 0, 0] < 1.7


def test_a_hessian_that_is_not_finite_is_refused() -> None:
    weight, hessian = bank()
    hessian[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="a Hessian is not finite"):
        gptq(weight, hessian, row_steps(weight, BITS), BITS)


def test_what_no_damping_makes_definite_is_refused() -> None:
    with pytest.raises(ValueError, match="far from positive"):
        factor(-1000 * torch.eye(3)[None], damping=0.01)


def test_the_weights_are_left_as_they_are() -> None:
    weight, hessian = bank()
    before = weight.clone(), hessian.clone()
    gptq(weight, hessian, row_steps(weight, BITS), BITS)
    assert torch.equal(weight, before[0]) and torch.equal(hessian, before[1])
