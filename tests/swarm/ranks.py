"""Ranks of their own processes, each with its own share of the telemetry and its own clock."""

import hashlib
import math
import os
import random

import torch

from runtime.ranks import World
from tests.small import free_port
from tests.swarm.small import FRONTIER, steering
from tests.warm import FORKS

CYCLES, STEPS = 1000, 4
AT_ONCE = 20  # cycles whose telemetry is reduced together: the test is of decisions


def decisions_of_ranks(
    size: int, log: str = "", cycles: int = CYCLES
) -> list[tuple[str, dict[str, int]]]:
    """What each rank decided: a digest of all its cycles, and how often each lever changed.

    With the path of a log they obey it; otherwise both sets of agents decide.
    """
    port = free_port()
    with FORKS.Pool(size) as pool:
        return pool.starmap(
            decide, [(rank, size, port, log, cycles) for rank in range(size)], chunksize=1
        )


def decide(rank: int, size: int, port: int, log: str, cycles: int) -> tuple[str, dict[str, int]]:
    """One rank's part."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    where = address | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
    os.environ |= {name: str(value) for name, value in where.items()}
    torch.set_num_threads(1)
    world = World.start("cpu")
    chosen = [["--swarm-yoke", log]] if log else [[], FRONTIER]
    swarms, draw = [steering(*arguments) for arguments in chosen], random.Random(rank)
    digest, changes = hashlib.sha256(), {}
    for first in range(1, cycles + 1, AT_ONCE):
        numbers = range(first, first + AT_ONCE)
        shares = [[telemetry(number, draw) for _ in range(STEPS)] for number in numbers]
        telemetries = world.sum_(torch.tensor(shares) / size).tolist()
        clock, _ = world.agree(first + 100 * rank + draw.random(), interrupted=False)
        for number, steps in zip(numbers, telemetries, strict=True):
            progress = (clock + number - first) / (cycles + 2)
            for swarm in swarms:
                for loss, square in steps:
                    swarm.add(loss, math.sqrt(square))
                swarm.note(step_ms=[60 + clock % 1, 50.0, 60.0, 20.0, 60.0, 50.0])
                cycle = swarm.cycle(STEPS * number, progress, min(1.0, 4 * (1 - progress)))
                digest.update(repr(cycle).encode())
                for lever in cycle.changed:
                    changes[lever] = changes.get(lever, 0) + 1
    world.stop()
    return digest.hexdigest(), changes


def telemetry(number: int, draw: random.Random) -> tuple[float, float]:
    """A step's loss and squared gradient norm: noise, and each fault now and then."""
    loss = 2 + 5 * number**-0.4 + draw.gauss(0, 0.03)
    square = (0.3 * math.exp(draw.gauss(0, 0.15))) ** 2
    if number % 60 in range(30, 35):
        loss *= 1 + 0.1 * (number % 10)
    if number % 90 == 45:
        square *= 100
    if number % 130 == 100 and draw.random() < 0.3:
        loss = math.nan
    return loss, square
