"""Operands: a stack's parts, and every operation with weights in fp8."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import operations
from kernels.operand import FP8, Operand, dense, rounded, rows_of, sourced, unscaled
from tests.kernels.tools.compare import FP32, random_tensors, relative_error

plain = operations("reference")
WIDE = (2, 5, 8)
Call = Callable[..., Sequence[Tensor]]


def in_fp8(weight: Tensor) -> Operand:
    return plain.quant(weight, weight.dtype, fp8=True)


def test_values_and_scale_are_near_the_weight() -> None:
    """Three bits of mantissa: half a unit in the last place is 2^-4 of a number."""
    weight = random_tensors(1, weight=(3, 6, 40))["weight"].float()
    found = in_fp8(weight)
    assert found.scale is not None and found.values.dtype == FP8
    assert (found.scale.dtype, found.scale.shape) == (torch.float32, (3, 6))
    assert torch.equal(found.scale, weight.norm(dim=-1) / 448)
    error = (dense(found, torch.float32) - weight).abs()
    assert bool((error <= weight.abs() * 2**-4 + found.scale[..., None] * 2**-10).all())


def test_a_row_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 4)
    weight[1, 2] = -3.0
    torch.testing.assert_close(dense(in_fp8(weight), torch.float32), weight)


@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15], ids=["tiny", "one", "huge"])
def test_one_element_may_be_the_whole_norm(size: float) -> None:
    weight = size * torch.eye(3, 700)
    found = in_fp8(weight)
    assert found.values.float().amax(-1).tolist() == [448.0] * 3
    torch.testing.assert_close(dense(found, torch.float32), weight)


@pytest.mark.parametrize("fp8", [False, True], ids=["", "fp8"])
def test_parts_of_a_stack(fp8: bool) -> None:
    weight = random_tensors(2, weight=(4, 3, 5))["weight"].float()

    def of(tensor: Tensor) -> Operand:
        return in_fp8(tensor) if fp8 else Operand(tensor)

    def same(one: Operand, other: Tensor) -> None:
        expected = dense(of(other), torch.float32)
        assert torch.equal(dense(one, torch.float32), expected)
        assert (one.scale is None) != fp8

    first, second = of(weight).halves()
    same(first, weight[:2])
    same(second, weight[2:])
    for member, row in zip(of(weight).unbind(), weight, strict=True):
        same(member, row)
    same(rows_of(first, second), torch.cat((weight[:2], weight[2:]), dim=1))


# By name: the operation of an input x and a weight of 8 rows and columns.
CALLS: dict[str, Callable[[Any], Call]] = {
    "linear": lambda ops: lambda x, w: [ops.linear(x, w)],
    "linear_add": lambda ops: lambda x, w: [ops.linear_add(x.clone(), x, w)],
    "projections": lambda ops: lambda x, w: ops.projections(x, w, (4, 2, 2)),
    "self_attention": lambda ops: (
        lambda x, w: [ops.self_attention(x, w, 1, torch.ones(2), torch.zeros(2, 5, 0), eps=1e-6)]
    ),
    "mlp": lambda ops: lambda x, w: [ops.mlp(x, w, w, 0.5, x.clone())],
    "loss": lambda ops: (
        lambda x, w: ops.loss(x, w, torch.ones(2, 5, dtype=torch.int32), softcap=30.0)[:1]
    ),
}
calls = pytest.mark.parametrize("name", CALLS)


@calls
def test_an_operation_computes_with_the_rounded_weight(name: str) -> None:
    """And the loss's head gets the rounded one's gradient."""
    given = random_tensors(3, x=WIDE, weight=(8, 8))
    x, weight = (given[key].float().requires_grad_() for key in ("x", "weight"))
    made = dense(in_fp8(weight.detach()), torch.float32).requires_grad_()
    call = CALLS[name](plain)
    outputs, expected = call(x, in_fp8(weight)), call(x, made)
    assert relative_error(expected[0], call(x, weight)[0]) > 1e-4
    for one, other in zip(outputs, expected, strict=True):
        assert torch.equal(one, other)
    if name != "loss":
        return
    ours, theirs = (
        torch.autograd.grad(torch.stack([y.square().sum() for y in results]).sum(), leaves)
        for results, leaves in ((outputs, (x, weight)), (expected, (x, made)))
    )
    for one, other in zip(ours, theirs, strict=True):
        assert relative_error(one, other) < FP32


@pytest.mark.parametrize("name", ["linear", "linear_add", "projections"])
@pytest.mark.parametrize("both", [False, True], ids=["weight", "x and weight"])
def test_gradients_are_those_of_the_sources(name: str, both: bool) -> None:
    given = random_tensors(4, x=WIDE, weight=(8, 8))
    x, weight = (given[key].float().requires_grad_() for key in ("x", "weight"))
    operands = (rounded(x, x) if both else x), in_fp8(weight)
    call = {
        "linear": lambda x, w: [plain.linear(x, w)],
        "linear_add": lambda x, w: [plain.linear_add(torch.zeros(WIDE), x, w)],
        "projections": lambda x, w: plain.projections(x, w, (4, 2, 2)),
    }[name]
    ours, theirs = call(*operands), call(x, weight)
    directions = [torch.randn_like(y) for y in theirs]
    assert relative_error(ours[0], theirs[0]) > 1e-3
    for one, other in zip(
        torch.autograd.grad(ours, (x, weight), directions),
        torch.autograd.grad(theirs, (x, weight), directions),
        strict=True,
    ):
        assert torch.equal(one, other)


@calls
def test_kernels_refuse_a_scale(name: str) -> None:
    weight = in_fp8(torch.ones(8, 8))
    with pytest.raises(ValueError, match=r"backend kernels (has no fp8|takes both)"):
        CALLS[name](operations("kernels"))(torch.ones(WIDE), weight)


def test_an_operand_without_a_scale_is_its_values() -> None:
    weight = torch.ones(2, 3)
    assert unscaled(Operand(weight)) is weight and unscaled(weight) is weight
    assert dense(Operand(weight), torch.bfloat16) is weight and sourced(weight) is weight
    assert sourced(Operand(weight)) is weight
