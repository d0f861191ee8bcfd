"""linear, linear_add and projections: products with (out, in) weights."""

import torch

from kernels import operations
from tests.kernels.tools.compare import check, random_tensors

ops = operations("reference")


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bti,oi->bto", x, weight)


def test_linear_and_its_gradients() -> None:
    check(
        lambda x, weight: (ops.linear(x, weight),),
        lambda x, weight: (product(x, weight),),
        random_tensors(1, x=(2, 7, 12), weight=(5, 12)),
    )


def test_linear_add_and_its_gradients() -> None:
    check(
        lambda stream, x, weight: (ops.linear_add(stream, x, weight),),
        lambda stream, x, weight: (stream + product(x, weight),),
        random_tensors(1, stream=(2, 7, 5), x=(2, 7, 12), weight=(5, 12)),
    )


def test_projections_and_their_gradients() -> None:
    check(
        lambda x, weight: ops.projections(x, weight, (3, 2, 4)),
        lambda x, weight: [product(x, part) for part in (weight[:3], weight[3:5], weight[5:])],
        random_tensors(1, x=(2, 7, 12), weight=(9, 12)),
    )


def test_a_lookup_enters_the_last_projection() -> None:
    check(
        lambda x, weight, **lookup: ops.projections(x, weight, (3, 4), **lookup),
        lambda x, weight, lookup, lookup_weight: [
            product(x, weight[:3]),
            product(x, weight[3:]) + product(lookup, lookup_weight),
        ],
        random_tensors(1, x=(2, 7, 12), weight=(7, 12), lookup=(2, 7, 5), lookup_weight=(4, 5)),
    )
