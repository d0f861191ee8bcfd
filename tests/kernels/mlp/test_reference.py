"""mlp: LeakyReLU^2 between two products, onto the residual stream."""

import pytest
import torch

from kernels import operations
from tests.kernels.tools import oracle
from tests.kernels.tools.compare import check, random_tensors

ops = operations("reference")


@pytest.mark.parametrize("slope", [0.0, 0.75, 1.0], ids=lambda slope: f"slope {slope}")
def test_leaky_relu_squared_mlp_and_its_gradients(slope: float) -> None:
    check(
        lambda x, up, down: (ops.mlp(x, up, down, slope),),
        lambda x, up, down: (oracle.mlp(x, up, down, slope),),
        random_tensors(1, x=(2, 7, 12), up=(20, 12), down=(12, 20)),
    )


def test_mlp_onto_a_stream() -> None:
    check(
        lambda x, up, down, stream: (ops.mlp(x, up, down, 0.5, stream),),
        lambda x, up, down, stream: (stream + oracle.mlp(x, up, down, 0.5),),
        random_tensors(1, x=(2, 7, 12), up=(20, 12), down=(12, 20), stream=(2, 7, 12)),
    )


def test_leaky_relu_squared_by_hand() -> None:
    x = torch.tensor([[[-2.0], [0.0], [3.0]]])
    one = torch.ones(1, 1)
    assert ops.mlp(x, one, one, 0.5).flatten().tolist() == [1.0, 0.0, 9.0]
