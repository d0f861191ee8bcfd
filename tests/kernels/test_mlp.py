"""linear and mlp: products with (out, in) weights, LeakyReLU^2."""

import pytest
import torch

from kernels import operations
from tests.kernels import oracle
from tests.kernels.compare import check, random_tensors

ops = operations("reference")


def test_linear_and_its_gradients() -> None:
    check(
        lambda x, weight: (ops.linear(x, weight),),
        lambda x, weight: (torch.einsum("bti,oi->bto", x, weight),),
        random_tensors(1, x=(2, 7, 12), weight=(5, 12)),
    )


@pytest.mark.parametrize("slope", [0.0, 0.75, 1.0], ids=lambda slope: f"slope {slope}")
def test_leaky_relu_squared_mlp_and_its_gradients(slope: float) -> None:
    check(
        lambda x, up, down: (ops.mlp(x, up, down, slope),),
        lambda x, up, down: (oracle.mlp(x, up, down, slope),),
        random_tensors(1, x=(2, 7, 12), up=(20, 12), down=(12, 20)),
    )


def test_leaky_relu_squared_by_hand() -> None:
    x = torch.tensor([[[-2.0], [0.0], [3.0]]])
    one = torch.ones(1, 1)
    assert ops.mlp(x, one, one, 0.5).flatten().tolist() == [1.0, 0.0, 9.0]
