"""Real ranks, each a process, that all do one job."""

import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from runtime.ranks import World
from tests import interpreter
from tests.small import free_port
from tests.warm import FORKS, interpret

Job = Callable[..., Any]
LONGEST = 240  # seconds; a rank that fails leaves the others waiting


def on_ranks(size: int, job: Job, *arguments: object, device: str = "cpu") -> list[Any]:
    """What ``job(world, *arguments)`` returned on each rank; it must be a module's function.

    On a CPU gloo is between them, on "cuda" NCCL and a GPU each.
    """
    port = free_port()
    places = [(rank, size, port, device, job, arguments) for rank in range(size)]
    interpreted = os.environ.get("TRITON_INTERPRET")
    with FORKS.Pool(size, interpret, (interpreted,)) as pool:
        told = pool.starmap_async(_told, places, chunksize=1).get(LONGEST)
    failures = sorted((when, text) for when, text, _ in told if text)
    assert not failures, f"the first of {len(failures)} ranks that failed:\n{failures[0][1]}"
    return [result for _, _, result in told]


def _told(*place: Any) -> tuple[float, str, Any]:
    """When a rank failed, and why, or what it returned: who leaves makes the others fail, too."""
    try:
        return 0.0, "", _one_rank(*place)
    except Failure as failure:
        return failure.when, str(failure), None


class Failure(Exception):  # noqa: N818 - a rank's, on its way to the test
    """What a rank raised, as text."""

    def __init__(self) -> None:
        super().__init__(traceback.format_exc())
        self.when = time.time()


def _one_rank(
    rank: int, size: int, port: int, device: str, job: Job, arguments: tuple[object, ...]
) -> Any:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    where = address | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
    os.environ |= {name: str(value) for name, value in where.items()}
    torch.set_num_threads(1)
    if "TRITON_INTERPRET" in os.environ:
        interpreter.quicken()
    world = World.start(device)
    try:
        return job(world, *arguments)
    except Exception:
        raise Failure from None  # noted before it leaves
    finally:
        world.stop()
