"""Numbers of a run's end."""

from runtime.ranks import World
from tests.ranks import on_ranks
from training import finishing


def of_others(world: World) -> float:
    finishing.memory_of_others = lambda device: 3.0 * world.rank
    return finishing.most_of_others(world, 1.0)


def test_other_processes_on_any_gpu_are_found():
    """Rank 0 looked at its own GPU alone, but every rank waits for the slowest."""
    assert on_ranks(2, of_others) == [3.0, 3.0]
