"""A test of ranks says which of them failed first, and why."""

import pytest
import torch

from runtime.ranks import World
from tests.ranks import on_ranks


def leave(world: World) -> float:
    """The second rank's fault; the first then waits for one that has left."""
    if world.rank == 1:
        raise ValueError("the second rank's own fault")
    return world.sum_(torch.ones(1)).item()


def whole(world: World) -> float:
    return world.sum_(torch.ones(1)).item()


def test_the_fault_that_came_first_is_told():
    with pytest.raises(AssertionError, match="the second rank's own fault"):
        on_ranks(2, leave)


def test_results_are_in_the_order_of_ranks():
    assert on_ranks(2, whole) == [2.0, 2.0]
