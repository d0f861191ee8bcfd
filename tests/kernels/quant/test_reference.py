"""quant: the compute copy, and its int6 grid for QAT."""

from typing import Any

import pytest
import torch

from kernels import operations
from tests.kernels.tools import oracle
from tests.kernels.tools.compare import FP64, check, random_tensors, relative_error

ops = operations("reference")
ON, OFF = torch.tensor(1.0), torch.tensor(0.0)


def quant(*given: Any) -> torch.Tensor:
    return ops.quant(*given).values


def random_bank() -> torch.Tensor:
    return random_tensors(7, bank=(3, 5, 16))["bank"].float()


@pytest.mark.parametrize("min_step", [0.0, 0.05], ids=["", "min_step"])
def test_int6_grid_and_its_straight_through_gradient(min_step: float) -> None:
    check(
        lambda bank: (quant(bank, torch.float64, ON, min_step),),
        lambda bank: (oracle.int6(bank, min_step),),
        random_tensors(7, bank=(3, 5, 16)),
    )


@pytest.mark.parametrize("lever", [None, OFF, ON], ids=["none", "off", "on"])
def test_factors_of_rows_and_their_gradients(lever: torch.Tensor | None) -> None:
    """After the grid, whose steps they do not move."""
    check(
        lambda bank, factor: (quant(bank, torch.float64, lever, 0.05, factor),),
        lambda bank, factor: (
            factor[..., None] * (oracle.int6(bank, 0.05) if lever is ON else bank),
        ),
        random_tensors(7, bank=(3, 5, 16), factor=(3, 5)),
    )


def test_straight_through_gradient_is_the_copys_own() -> None:
    bank = random_bank().requires_grad_()
    into = random_bank() ** 2
    (quant(bank, torch.float32, ON) * into).sum().backward()
    assert bank.grad is not None
    assert torch.equal(bank.grad, into)


def test_int6_codes_are_whole_and_reach_31_in_every_row() -> None:
    bank = random_bank()
    codes = quant(bank, torch.float32, ON) / (bank.abs().amax(-1, keepdim=True) / 31)
    assert float((codes - codes.round()).abs().max()) < 31 * 2**-22
    assert codes.round().abs().amax(-1).flatten().tolist() == [31.0] * 15
    assert len(codes[0].round().unique()) > 16


def test_each_row_has_its_own_step() -> None:
    bank = random_bank()
    scaled = bank * torch.tensor([1.0, 2.0, 4.0, 8.0, 1024.0])[:, None]
    expected = quant(bank, torch.float32, ON) * scaled / bank
    assert relative_error(quant(scaled, torch.float32, ON), expected) < 2**-22


def test_min_step_is_the_floor_of_a_rows_step() -> None:
    bank = torch.tensor([[0.31, -0.16, 0.04], [31.0, -15.7, 0.4]])
    faked = quant(bank, torch.float32, ON, 0.1)
    expected = torch.tensor([[0.3, -0.2, 0.0], [31.0, -16.0, 0.0]])
    assert relative_error(faked, expected) < 2**-22


def test_a_row_of_zeros_stays_zero() -> None:
    bank = torch.tensor([[0.0, 0.0], [1.0, -0.5]], requires_grad=True)
    faked = quant(bank, torch.float32, ON)
    faked.sum().backward()
    assert faked[0].tolist() == [0.0, 0.0]
    assert bank.grad is not None
    assert bank.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lever", [OFF, torch.tensor(0.5), None], ids=["0", "0.5", "none"])
def test_lever_off_is_a_plain_copy(lever: torch.Tensor | None, dtype: torch.dtype) -> None:
    bank = random_bank()
    assert torch.equal(quant(bank, dtype, lever, 0.05), bank.to(dtype))


def test_lever_is_read_from_the_tensor_at_each_call() -> None:
    bank, lever = random_bank(), torch.tensor(0.0)
    before = quant(bank, torch.float32, lever)
    lever.fill_(1.0)
    assert torch.equal(before, bank)
    assert relative_error(quant(bank, torch.float32, lever), oracle.int6(bank.double())) < 2**-22


def test_faking_twice_changes_nothing() -> None:
    once = quant(random_tensors(7, bank=(3, 5, 16))["bank"], torch.float64, ON)
    assert relative_error(quant(once, torch.float64, ON), once) < FP64


def e4m3_numbers() -> torch.Tensor:
    """All finite numbers of fp8 e4m3, by exponent and mantissa, ascending."""
    small = [mantissa / 8 * 2.0**-6 for mantissa in range(8)]
    large = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)][:-1]
    positive = torch.tensor([*small, *large], dtype=torch.float64)
    return torch.cat((-positive.flip(0), positive[1:]))


@pytest.mark.parametrize("factor", [False, True], ids=["", "factors of rows"])
def test_fp8_values_are_the_nearest_there_are(factor: bool) -> None:
    given = random_tensors(8, bank=(3, 5, 16), factor=(3, 5))
    bank, row_scale = given["bank"].float(), given["factor"].float() if factor else None
    found = ops.quant(bank, torch.float64, None, 0.0, row_scale, fp8=True)
    exact = bank if row_scale is None else bank * row_scale[..., None]
    scale = exact.norm(dim=-1) / 448
    assert found.scale is not None and torch.equal(found.scale, scale)
    assert found.source is not None and torch.equal(found.source, exact.double())
    numbers, wanted = e4m3_numbers(), (exact / scale[..., None]).double()
    assert numbers.max() == 448
    nearest = (wanted[..., None] - numbers).abs().amin(-1)
    assert torch.equal((wanted - found.values.double()).abs(), nearest)
