"""A test of ranks says which of them failed first, and why."""

import time

import pytest
import torch

from errors import InputError
from runtime import launch
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


def many(world: World) -> tuple[list[list], int]:
    """Sums of tensors of three shapes, one of them transposed, and the collectives they took."""
    one = torch.arange(6.0).view(2, 3).T
    tensors = [one, torch.tensor(float(world.rank)), torch.full((4,), 10.0**world.rank)]
    before = world.peers.met if world.peers else 0
    world.sum_all_(tensors)
    assert tensors[0] is one and one.stride() == (1, 3)
    return [tensor.tolist() for tensor in tensors], world.peers.met - before if world.peers else 0


def test_one_collective_sums_many_tensors_in_place():
    expected = [[[0.0, 9.0], [3.0, 12.0], [6.0, 15.0]], 3.0, [111.0] * 4]
    assert on_ranks(3, many) == [(expected, 1)] * 3
    alone = [[[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], 0.0, [1.0] * 4]
    assert many(World.single(torch.device("cpu"))) == (alone, 0)


@pytest.mark.parametrize("missing", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_ranks_that_cannot_meet_are_one_line(missing, monkeypatch):
    """U10: WORLD_SIZE left behind by a cluster ended in a traceback."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2" if name == "WORLD_SIZE" else "0")
    monkeypatch.delenv(missing)
    with pytest.raises(InputError, match=f"WORLD_SIZE=2 without {missing}: unset it"):
        World.start("cpu")


def test_waiting_for_other_ranks_is_said_aloud(monkeypatch, capsys):
    """U10: not a byte came in the 30 minutes until it gave up."""
    monkeypatch.setattr(launch, "PATIENCE", 0.02)
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1")
    with launch.waiting(2):
        time.sleep(0.2)
    said = "waiting for 1 other rank at here:1; unset WORLD_SIZE to run alone\n"
    assert capsys.readouterr().out == said
    with launch.waiting(3):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().out == ""
