"""The quant kernel against the reference: bit for bit, for both give the grid of one rule."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.operand import FP8, dense
from kernels.quant import autograd
from kernels.quant import reference as plain
from tests.kernels.tools.compare import random_tensors, relative_error
from tests.kernels.tools.twins import DEVICE, check_twins, poisoned

ON, OFF = torch.tensor(1.0, device=DEVICE), torch.tensor(0.0, device=DEVICE)
SHAPES = {
    "one row": (1, 128),
    "a vector": (100,),
    "rows no multiple of a tile": (3, 11, 128),
    "width no power of two": (2, 3, 1536),
    "one column": (5, 1),
}


def quant(*given: Any) -> Tensor:
    return autograd.quant(*given).values


def reference(*given: Any) -> Tensor:
    return plain.quant(*given).values


def random_weight(shape: tuple[int, ...], seed: int = 7) -> Tensor:
    return random_tensors(seed, weight=shape)["weight"].float().to(DEVICE)


@pytest.mark.parametrize("lever", [None, OFF, ON], ids=["none", "off", "on"])
@pytest.mark.parametrize("factor", [False, True], ids=["", "factors"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_fp8_besides_the_copy(shape: tuple[int, ...], factor: bool, lever: Tensor | None) -> None:
    """Its gradient is the copy's, and values differ at most where a scale's rounding decides."""
    weight = random_weight(shape).requires_grad_()
    row_scale = random_weight(shape)[..., 0].contiguous() if factor else None
    given = (weight, torch.float32, lever, 0.05, row_scale)
    with poisoned():
        found = autograd.quant(*given, fp8=True)
    wanted = plain.quant(*given, fp8=True)
    assert found.source is not None and wanted.source is not None and found.values.dtype == FP8
    assert torch.equal(found.source, quant(*given))
    torch.testing.assert_close(found.scale, wanted.scale, rtol=1e-6, atol=0)
    same = found.values.float() == wanted.values.float()
    assert same.float().mean() > 1 - 2e-3
    assert relative_error(dense(found, torch.float32), dense(wanted, torch.float32)) < 5e-3
    direction = random_weight(shape, 8)
    ours, theirs = (
        torch.autograd.grad(source, weight, direction)[0]
        for source in (found.source, wanted.source)
    )
    assert relative_error(ours, theirs) < 2**-22


def test_fp8_of_zeros_is_zeros() -> None:
    found = autograd.quant(torch.zeros(3, 40, device=DEVICE), torch.float32, fp8=True)
    assert not dense(found, torch.float32).any()


@pytest.mark.parametrize("min_step", [0.0, 0.05], ids=["", "min_step"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_int6_grid_and_its_straight_through_gradient(
    shape: tuple[int, ...], min_step: float
) -> None:
    weight, direction = random_weight(shape).requires_grad_(), random_weight(shape, 8)
    with poisoned():
        copy = quant(weight, torch.float32, ON, min_step)
    assert relative_error(copy, reference(weight, torch.float32, ON, min_step)) < 2**-24
    (gradient,) = torch.autograd.grad(copy, weight, direction)
    assert torch.equal(gradient, direction)


@pytest.mark.parametrize("lever", [None, OFF, ON], ids=["none", "off", "on"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_factors_of_rows_and_all_gradients(shape: tuple[int, ...], lever: Tensor | None) -> None:
    check_twins(
        lambda weight, factor: [quant(weight, torch.float32, lever, 0.05, factor)],
        lambda weight, factor: [reference(weight, weight.dtype, lever, 0.05, factor)],
        random_tensors(9, weight=shape, factor=shape[:-1]),
    )


def test_a_factor_of_zero_has_a_gradient() -> None:
    weight = random_weight((3, 5, 128))
    factor = torch.zeros(3, 5, device=DEVICE, requires_grad=True)
    (gradient,) = torch.autograd.grad(quant(weight, torch.float32, ON, 0.0, factor).sum(), factor)
    assert relative_error(gradient, reference(weight, torch.float32, ON).sum(-1)) < 2**-20


@pytest.mark.parametrize("lever", [OFF, 0.5 * ON], ids=["0", "0.5"])
def test_lever_off_is_a_plain_copy(lever: Tensor) -> None:
    weight = random_weight((3, 11, 128))
    with poisoned():
        assert torch.equal(quant(weight, torch.float32, lever, 0.05), weight)


def test_lever_is_read_from_the_tensor_at_each_call() -> None:
    weight, lever = random_weight((5, 128)), OFF.clone()
    assert torch.equal(quant(weight, torch.float32, lever), weight)
    lever.fill_(1.0)
    assert (
        relative_error(quant(weight, torch.float32, lever), reference(weight, torch.float32, ON))
        < 2**-24
    )


def test_halves_go_to_the_even_code_and_a_row_of_zeros_stays_zero() -> None:
    weight = torch.tensor([[31.0, 0.5, 1.5, -2.5, 30.5], [0.0] * 5], device=DEVICE)
    assert quant(weight, torch.float32, ON).tolist() == [[31, 0, 2, -2, 30], [0] * 5]


def test_nothing_to_do_gives_the_weight_itself() -> None:
    weight = random_weight((3, 4))
    assert quant(weight, torch.float32) is weight


def test_strided_weight_factors_and_gradients() -> None:
    def transposed(operation: Any) -> Any:
        return lambda weight, factor: [operation(weight.mT, weight.dtype, None, 0.0, factor.T).mT]

    given = random_tensors(9, weight=(2, 6, 5), factor=(5, 2))
    check_twins(transposed(quant), transposed(reference), given)


def test_strided_weight_and_gradient() -> None:
    weight, direction = random_weight((6, 5)).requires_grad_(), random_weight((6, 5), 8)
    copy = quant(weight.T, torch.float32, ON)
    assert relative_error(copy, reference(weight.T, torch.float32, ON)) < 2**-24
    (gradient,) = torch.autograd.grad(copy.T, weight, direction)
    assert torch.equal(gradient, direction)


def test_a_lower_precision_comes_back_as_fp32_gradient() -> None:
    # fp16, for the interpreter rounds bf16 otherwise than a GPU.
    weight = random_weight((3, 11, 128)).requires_grad_()
    direction = random_weight((3, 11, 128), 8).half()
    with poisoned():
        copy = quant(weight, torch.float16)
        (gradient,) = torch.autograd.grad(copy, weight, direction)
    assert torch.equal(copy, weight.half())
    assert gradient.dtype == torch.float32
    assert torch.equal(gradient, direction.float())


@pytest.mark.gpu
@pytest.mark.parametrize("lever", [None, OFF, ON], ids=["none", "off", "on"])
@pytest.mark.parametrize("shape", [(22, 512, 512), (11, 512, 1536), (2048, 128)], ids=str)
def test_bf16_is_the_references(shape: tuple[int, ...], lever: Tensor | None) -> None:
    weight = random_weight(shape).requires_grad_()
    direction = random_weight(shape, 8).bfloat16()
    with poisoned():
        copy = quant(weight, torch.bfloat16, lever, 0.05)
        (gradient,) = torch.autograd.grad(copy, weight, direction)
    expected = reference(weight, torch.bfloat16, lever, 0.05)
    # The reference adds weight and change, which may round once more, at a tie of bf16.
    assert (copy != expected).float().mean() < 1e-4
    assert relative_error(copy, expected) < 2**-12
    assert torch.equal(gradient, direction.float())


@pytest.mark.gpu
@pytest.mark.parametrize("lever", [None, ON], ids=["none", "on"])
@pytest.mark.parametrize("shape", [(22, 512, 512), (11, 512, 1536)], ids=str)
def test_bf16_with_factors_is_as_exact_as_pytorchs(
    shape: tuple[int, ...], lever: Tensor | None
) -> None:
    def twin(weight: Tensor, factor: Tensor) -> list[Tensor]:
        exact = weight.dtype == torch.float64
        return [reference(weight, weight.dtype if exact else torch.bfloat16, lever, 0.05, factor)]

    check_twins(
        lambda weight, factor: [quant(weight, torch.bfloat16, lever, 0.05, factor)],
        twin,
        random_tensors(9, weight=shape, factor=shape[:-1]),
        dtype=torch.bfloat16,
        fp32=("weight", "factor"),
    )
