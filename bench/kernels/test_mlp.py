"""The MLP, forward and backward."""

from functools import partial

import pytest

from bench.harness.bar import Bar
from bench.harness.operation import Cost, Entry
from bench.harness.sizes import BF16, MLP_WIDTH, SMALL_WINDOWS, TIME, TOKENS, WIDTH, WINDOWS, random
from kernels import Operations, operations
from kernels.peers import of

PRODUCT = 2 * TOKENS * WIDTH * MLP_WIDTH
NARROW, WIDE = TOKENS * WIDTH * BF16, TOKENS * MLP_WIDTH * BF16


def make_inputs(windows: int) -> dict:
    return {
        "x": random(windows, TIME, WIDTH),
        "up": random(MLP_WIDTH, WIDTH, scale=WIDTH**-0.5),
        "down": random(WIDTH, MLP_WIDTH, scale=MLP_WIDTH**-0.5),
    }


def peers() -> dict:
    calls = {peer.name: call for peer in of("mlp") if (call := peer.load()) is not None}
    return {
        name: partial(lambda call, inputs: [call(**inputs)], call) for name, call in calls.items()
    }


@pytest.fixture(scope="module")
def entry() -> Entry:
    def run(ops: Operations):
        return lambda inputs: [ops.mlp(**inputs, slope=0.75)]

    return Entry(
        name="mlp",
        ours=run(operations("kernels")),
        reference=run(operations("reference")),
        inputs=make_inputs(WINDOWS),
        small=partial(make_inputs, SMALL_WINDOWS),
        forward=Cost(2 * NARROW + WIDE, 2 * PRODUCT),
        backward=Cost(3 * NARROW + WIDE, 4 * PRODUCT),
        peers=peers(),
        bars={"both": Bar({"compiled": 1.10})},
    )


def test_mlp(contest, entry, direction):
    contest(entry.contest(direction))
