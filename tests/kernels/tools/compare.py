"""Agreement of two computations: of what they return, and of every gradient."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

# In unit roundoffs. Rounding errors are random, so relative to a norm they grow with the square
# root of their number: 10^4 roundings on the way through a small network and back make 100.
# Gradients that are small differences of large terms multiply that: measured over all tests, up to
# 600 in fp32, and 6,000 in fp64, which also meets windows of one token, where most terms cancel.
FP64 = 100_000 * 2.0**-53
FP32 = 1_000 * 2.0**-24


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference by norm of what is expected, or by 1e-2 where that is less (the
    gradient of a query that sees one key is zero but for rounding); NaN where ``got`` has one."""
    assert got.shape == expected.shape
    difference = (got.detach().double() - expected.detach().double()).norm()
    return float(difference / expected.detach().double().norm().clamp_min(1e-2))


def leaves(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fp64 copies that ask for a gradient."""
    return {
        name: tensor.detach().double().clone().requires_grad_() for name, tensor in tensors.items()
    }


def assert_agree(
    got: Sequence[Tensor],
    got_leaves: Mapping[str, Tensor],
    expected: Sequence[Tensor],
    expected_leaves: Mapping[str, Tensor],
    tolerance: float,
) -> None:
    """Outputs agree, and so does the gradient of a random functional of them in every leaf.

    A leaf without gradient on one side must have none on the other.
    """
    for index, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert relative_error(one, other) < tolerance, f"output {index}"
    ours, theirs = gradients(got, got_leaves), gradients(expected, expected_leaves)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert relative_error(ours[name], theirs[name]) < tolerance, f"gradient of {name}"


def gradients(outputs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a fixed random functional of ``outputs`` in each input that it depends on."""
    generator = torch.Generator().manual_seed(20)
    functional = sum(
        (output * torch.randn(output.shape, dtype=torch.float64, generator=generator)).sum()
        for output in outputs
        if output.requires_grad
    )
    assert isinstance(functional, Tensor)
    found = torch.autograd.grad(functional, list(inputs.values()), allow_unused=True)
    return {name: grad for name, grad in zip(inputs, found, strict=True) if grad is not None}


def check(
    ours: Callable[..., Sequence[Tensor]],
    plain: Callable[..., Sequence[Tensor]],
    inputs: Mapping[str, Tensor],
    tolerance: float = FP64,
) -> None:
    """Both functions, called with the fp64 ``inputs`` by name, agree."""
    mine, theirs = leaves(inputs), leaves(inputs)
    assert_agree(ours(**mine), mine, plain(**theirs), theirs, tolerance)


def random_tensors(seed: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Standard normal fp64 tensors by name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, dtype=torch.float64, generator=generator)
        for name, shape in shapes.items()
    }
