"""Norm at a block's entry (skip, mix) and in its middle (residual + branch only)."""

import pytest

from bench.operation import Cost, Entry
from bench.sizes import BF16, EPS, SMALL_WINDOWS, TIME, TOKENS, WIDTH, WINDOWS, random
from kernels import operations, reference

TENSOR = TOKENS * WIDTH * BF16


def entry_inputs(windows: int) -> dict:
    activations = {name: random(windows, TIME, WIDTH) for name in ("x", "branch", "skip", "x0")}
    vectors = {name: random(WIDTH).float() for name in ("branch_scale", "skip_weight")}
    return activations | vectors | {"mix": random(2, WIDTH).float()}


def middle_inputs(windows: int) -> dict:
    full = entry_inputs(windows)
    return {name: full[name] for name in ("x", "branch", "branch_scale")}


@pytest.mark.parametrize(
    ("name", "make_inputs", "forward", "backward"),
    [
        # In: x, branch, skip, x0; out: stream, mixed, normed. Back: three gradients and the four
        # inputs in, four gradients out.
        ("norm at entry", entry_inputs, Cost(7 * TENSOR), Cost(11 * TENSOR)),
        # In: x, branch; out: stream, normed. Back: two gradients, stream, branch in; two out.
        ("norm in the middle", middle_inputs, Cost(4 * TENSOR), Cost(6 * TENSOR)),
    ],
)
def test_norm(contest, name, make_inputs, forward, backward):
    def run(namespace):
        return lambda inputs: namespace.norm(scale=0.5, eps=EPS, **inputs)

    entry = Entry(
        name=name,
        ours=run(operations("kernels")),
        reference=run(reference),
        inputs=make_inputs(WINDOWS),
        small=make_inputs(SMALL_WINDOWS),
        forward=forward,
        backward=backward,
        peers={},
    )
    for direction in entry.contests():
        contest(direction)
