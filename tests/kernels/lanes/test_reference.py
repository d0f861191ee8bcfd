"""The combination of two lanes against its formula, factor by factor."""

import pytest
import torch
from torch import Tensor

from kernels import operations
from tests.kernels.tools.compare import check, random_tensors

ops = operations("reference")
WIDE = (2, 5, 6)
NAMES = ("first", "second", "attention", "mlp")
SKIP = {"skip": WIDE, "skip_weight": (6,)}


def plain(**given: Tensor) -> tuple[Tensor, ...]:
    first = given["first"]
    if "skip" in given:
        first = first + torch.einsum("c,btc->btc", given["skip_weight"], given["skip"])
    if "first_weight" in given:
        first = torch.einsum("c,btc->btc", given["first_weight"], first)
    kept = torch.stack((first, given["second"]))
    branches = torch.stack((given["attention"], given["mlp"]))
    kept = torch.einsum("l,lbtc->lbtc", given["keep"], kept)
    return tuple(kept + torch.einsum("rl,rbtc->lbtc", given["mix"], branches))


@pytest.mark.parametrize(
    "more", [{}, SKIP, SKIP | {"first_weight": (6,)}], ids=["", "skip", "skip gate"]
)
def test_lanes_and_their_gradients(more: dict[str, tuple[int, ...]]) -> None:
    given = random_tensors(1, **dict.fromkeys(NAMES, WIDE), keep=(2,), mix=(2, 2), **more)
    check(ops.lanes, plain, given)


def test_factors_by_hand() -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    keep, mix = torch.tensor([2.0, 3.0]), torch.tensor([[5.0, 7.0], [11.0, 13.0]])
    first, second = ops.lanes(
        one, 10 * one, 100 * one, 1000 * one, keep, mix, skip=9 * one, skip_weight=torch.ones(1)
    )
    assert (first.item(), second.item()) == (20 + 500 + 11000, 30 + 700 + 13000)


def test_outputs_stay_in_the_activations_dtype_with_fp32_factors() -> None:
    wide = torch.ones(WIDE, dtype=torch.bfloat16)
    found = ops.lanes(wide, wide, wide, wide, torch.ones(2), torch.ones(2, 2))
    assert [lane.dtype for lane in found] == [torch.bfloat16] * 2
