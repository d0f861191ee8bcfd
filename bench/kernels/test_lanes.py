"""Two lanes of the residual stream, with a skip and with a skip gate."""

from collections.abc import Callable
from functools import partial

import pytest
from torch import Tensor

from bench.harness.bar import Bar
from bench.harness.operation import Cost, Entry
from bench.harness.sizes import BF16, SMALL_WINDOWS, TIME, TOKENS, WIDTH, WINDOWS, random
from kernels import Operations, operations

TENSOR = TOKENS * WIDTH * BF16


def plain_inputs(windows: int) -> dict[str, Tensor]:
    names = ("first", "second", "attention", "mlp")
    wide = {name: random(windows, TIME, WIDTH) for name in names}
    return wide | {"keep": random(2).float(), "mix": random(2, 2).float()}


def gate_inputs(windows: int) -> dict[str, Tensor]:
    vectors = {name: random(WIDTH).float() for name in ("skip_weight", "first_weight")}
    return plain_inputs(windows) | {"skip": random(windows, TIME, WIDTH)} | vectors


def combined(ops: Operations):
    return lambda inputs: ops.lanes(**inputs)


# In: lanes and branches; out: lanes. Back: these and two gradients in, four out.
PLAIN = ("lanes", plain_inputs, Cost(6 * TENSOR), Cost(10 * TENSOR))
# A skip more each way, and its gradient.
GATED = ("lanes with skip gate", gate_inputs, Cost(7 * TENSOR), Cost(12 * TENSOR))


@pytest.fixture(scope="module", params=[PLAIN, GATED], ids=lambda param: param[0])
def entry(request) -> Entry:
    return lanes_of(*request.param)


def lanes_of(name: str, make_inputs: Callable, forward: Cost, backward: Cost) -> Entry:
    """Return the entry of lanes with such inputs."""
    return Entry(
        name=name,
        ours=combined(operations("kernels")),
        reference=combined(operations("reference")),
        inputs=make_inputs(WINDOWS),
        small=partial(make_inputs, SMALL_WINDOWS),
        forward=forward,
        backward=backward,
        peers={},
        bars={"forward": Bar(of_floor=0.85), "backward": Bar(of_floor=0.8)},
    )


def test_lanes(contest, entry, direction):
    contest(entry.contest(direction))
