"""Products that share a matrix or add in place, against the reference."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.linear import autograd as kernel
from kernels.linear import reference
from tests.kernels.tools.compare import random_tensors
from tests.kernels.tools.twins import DEVICE, check_twins

SIZES = (6, 4, 4)
SHAPES = [(2, 7, 12), (1, 1, 12), (3, 1, 12), (2, 3, 5, 12)]


def add_in_place(stream: Tensor, x: Tensor, weight: Tensor) -> list[Tensor]:
    """To a copy: a leaf may not be added to."""
    return [kernel.linear_add(stream.clone(), x, weight)]


def add(stream: Tensor, x: Tensor, weight: Tensor) -> list[Tensor]:
    return [reference.linear_add(stream, x, weight)]


def add_inputs(shape: tuple[int, ...], seed: int = 1, out: int = 6) -> dict[str, Tensor]:
    return random_tensors(seed, stream=(*shape[:-1], out), x=shape, weight=(out, shape[-1]))


def projection_inputs(
    shape: tuple[int, ...], lookup: bool, sizes: Sequence[int] = SIZES, seed: int = 1
) -> dict[str, Tensor]:
    of: dict[str, tuple[int, ...]] = {"x": shape, "weight": (sum(sizes), shape[-1])}
    if lookup:
        of |= {"lookup": (*shape[:-1], 8), "lookup_weight": (sizes[-1], 8)}
    return random_tensors(seed, **of)


class Joint(torch.autograd.Function):
    """Passes several tensors; their gradients come as views of one buffer, or each in its own."""

    @staticmethod
    def forward(ctx: Any, adjacent: bool, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.adjacent = adjacent
        return tuple(part.clone() for part in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        joint = torch.cat(gradients, dim=-1)
        views = joint.split([gradient.size(-1) for gradient in gradients], dim=-1)
        return None, *(views if ctx.adjacent else (view.contiguous() for view in views))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_add(shape: tuple[int, ...]) -> None:
    check_twins(add_in_place, add, add_inputs(shape, seed=len(shape)))


def test_linear_add_writes_the_streams_own_memory_and_history() -> None:
    given = {name: tensor.float().to(DEVICE) for name, tensor in add_inputs((2, 7, 12)).items()}
    stream = given["stream"].requires_grad_().clone()
    added = kernel.linear_add(stream, given["x"], given["weight"].requires_grad_())
    assert added is stream
    assert torch.autograd.grad(stream.sum(), given["weight"])[0].any()


def test_linear_add_refuses_a_leaf_that_asks_for_a_gradient() -> None:
    given = {name: tensor.to(DEVICE) for name, tensor in add_inputs((2, 7, 12)).items()}
    with pytest.raises(RuntimeError, match="leaf"):
        kernel.linear_add(given["stream"].requires_grad_(), given["x"], given["weight"])


def test_linear_add_refuses_a_stream_with_gaps() -> None:
    given = {name: tensor.to(DEVICE) for name, tensor in add_inputs((2, 7, 12)).items()}
    gaps = torch.zeros(2, 14, 6, dtype=torch.float64, device=DEVICE)[:, ::2].transpose(0, 1)
    with pytest.raises(RuntimeError, match="view"):
        kernel.linear_add(gaps, given["x"].transpose(0, 1), given["weight"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("lookup", [False, True], ids=["", "lookup"])
@pytest.mark.parametrize("adjacent", [False, True], ids=["apart", "side by side"])
def test_projections(shape: tuple[int, ...], lookup: bool, adjacent: bool) -> None:
    check_twins(
        lambda x, weight, **rest: Joint.apply(
            adjacent, *kernel.projections(x, weight, SIZES, **rest)
        ),
        lambda x, weight, **rest: reference.projections(x, weight, SIZES, **rest),
        projection_inputs(shape, lookup, seed=len(shape)),
    )


@pytest.mark.parametrize("used", [(0,), (2,), (0, 1)], ids=str)
@pytest.mark.parametrize("lookup", [False, True], ids=["", "lookup"])
def test_projections_of_which_some_are_unused(lookup: bool, used: tuple[int, ...]) -> None:
    def of(namespace: Any) -> Any:
        def call(x: Tensor, weight: Tensor, **rest: Tensor) -> list[Tensor]:
            parts = namespace.projections(x, weight, SIZES, **rest)
            # A zero times the rest, so that both sides have the same gradients.
            return [sum(parts[place].sum(-1) for place in used) + 0 * parts[2].sum(-1)]

        return call

    check_twins(of(kernel), of(reference), projection_inputs((2, 7, 12), lookup))
    x = torch.ones(2, 12, requires_grad=True)
    parts = kernel.projections(x, torch.ones(14, 12), SIZES)
    assert torch.autograd.grad(parts[1].sum(), x)[0].tolist() == [[4.0] * 12] * 2


def test_projections_are_views_of_one_product() -> None:
    x, weight = torch.ones(2, 3, 12), torch.ones(14, 12)
    parts = kernel.projections(x, weight, SIZES)
    assert [part.storage_offset() for part in parts] == [0, 6, 10]
    assert {part.untyped_storage().data_ptr() for part in parts} == {
        parts[0].untyped_storage().data_ptr()
    }
    assert {part.stride() for part in parts} == {(42, 14, 1)}


@pytest.mark.parametrize(
    ("make", "joined"),
    [
        (lambda joint: joint.split(SIZES, dim=1), True),
        (lambda joint: [part.clone() for part in joint.split(SIZES, dim=1)], False),
        (lambda joint: [joint[:, 0:6], joint[:, 10:14], joint[:, 6:10]], False),
        (lambda joint: [joint[:, 0:6], joint[:, 6:10], joint[:, 9:13]], False),
        (lambda joint: [joint[:, 0:6], None, joint[:, 10:14]], False),
    ],
    ids=["side by side", "apart", "out of order", "overlapping", "one absent"],
)
def test_gradients_are_copied_only_where_they_must_be(make: Any, joined: bool) -> None:
    joint = torch.randn(5, 14)
    parts = make(joint)
    found = kernel.joint_matrix(parts, SIZES, torch.empty(5, 3))
    wanted = [torch.zeros(5, 4) if part is None else part for part in parts]
    assert torch.equal(found, torch.cat(wanted, dim=1))
    assert (found.data_ptr() == joint.data_ptr()) == joined


@pytest.mark.gpu
@pytest.mark.parametrize("lookup", [False, True], ids=["", "lookup"])
@pytest.mark.parametrize("shape", [(48, 2048, 512), (3, 333, 512)], ids=str)
def test_bf16_is_as_exact_as_pytorch(shape: tuple[int, ...], lookup: bool) -> None:
    given = projection_inputs(shape, lookup, sizes=(512, 256, 256))
    check_twins(
        lambda x, weight, **rest: Joint.apply(
            True, *kernel.projections(x, weight, (512, 256, 256), **rest)
        ),
        lambda x, weight, **rest: reference.projections(x, weight, (512, 256, 256), **rest),
        given,
        dtype=torch.bfloat16,
    )
    check_twins(add_in_place, add, add_inputs(shape, out=512), dtype=torch.bfloat16)
