"""Norm at a layer's entry (skip, mix with the input) and in its middle.

The returned stream has a gradient, which our backward kernel adds. Around the compiled reference,
autograd adds it in a separate kernel.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.harness.bar import Bar
from bench.harness.operation import Cost, Entry
from bench.harness.sizes import (
    BF16,
    EPS,
    QUERY_HEADS,
    SMALL_WINDOWS,
    TIME,
    TOKENS,
    WIDTH,
    WINDOWS,
    random,
)
from kernels import Operations, operations
from kernels.peers import of

GATE_WINDOW = 12
TENSOR, LOGITS = TOKENS * WIDTH * BF16, TOKENS * QUERY_HEADS * BF16
REFERENCE = operations("reference")


class Passed(torch.autograd.Function):
    """A leaf's values in its memory as no leaf: only that may be handed on to be added to."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor) -> Tensor:
        return leaf.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def entry_inputs(windows: int) -> dict[str, Tensor]:
    activations = {name: random(windows, TIME, WIDTH) for name in ("stream", "x0")}
    return activations | {"mix": random(2, WIDTH).float()}


def skip_inputs(windows: int) -> dict[str, Tensor]:
    skip = {"skip": random(windows, TIME, WIDTH), "skip_weight": random(WIDTH).float()}
    return entry_inputs(windows) | skip


def gate_inputs(windows: int) -> dict[str, Tensor]:
    return entry_inputs(windows) | {"gate_weight": random(QUERY_HEADS, GATE_WINDOW).float()}


def middle_inputs(windows: int) -> dict[str, Tensor]:
    return {"x": random(windows, TIME, WIDTH)}


def at_entry(ops: Operations):
    """Return a call as most layers make it, without the stream as an output."""

    def call(inputs):
        mixed, normed, _, x0, *gate = ops.mix_norm(**inputs, scale=0.5, eps=EPS)
        return [mixed, normed, x0, *(logits for logits in gate if logits is not None)]

    return call


def in_the_middle(ops: Operations):
    def call(inputs):
        x = inputs["x"]
        x = x if ops is REFERENCE else Passed.apply(x)
        return ops.norm(x, scale=0.5, eps=EPS)

    return call


def peers_in_the_middle():
    """Return installed packages' norms; autograd adds the stream's gradient."""
    weight = torch.full((WIDTH,), 0.5, device="cuda", dtype=torch.bfloat16)
    calls = {peer.name: call for peer in of("norm") if (call := peer.load()) is not None}
    return {
        name: partial(lambda call, inputs: [inputs["x"], call(inputs["x"], weight, EPS)], call)
        for name, call in calls.items()
    }


# In: stream, x0; out: mixed, normed. Back: both inputs and three gradients in, two out.
AT_ENTRY = ("norm at entry", at_entry, entry_inputs, Cost(4 * TENSOR), Cost(7 * TENSOR))
# A skip more each way, and its gradient.
WITH_SKIP = ("norm at entry with skip", at_entry, skip_inputs, Cost(5 * TENSOR), Cost(9 * TENSOR))
# The gate's logits each way.
WITH_GATE = (
    "norm at entry with gate",
    at_entry,
    gate_inputs,
    Cost(4 * TENSOR + LOGITS),
    Cost(7 * TENSOR + LOGITS),
)
# In: x; out: normed. Back: normed and two gradients in, one out.
MIDDLE = ("norm in the middle", in_the_middle, middle_inputs, Cost(2 * TENSOR), Cost(4 * TENSOR))


@pytest.fixture(
    scope="module", params=[AT_ENTRY, WITH_SKIP, WITH_GATE, MIDDLE], ids=lambda param: param[0]
)
def entry(request) -> Entry:
    made = norm_of(*request.param)
    return replace(made, peers=peers_in_the_middle()) if made.name == MIDDLE[0] else made


def norm_of(
    name: str, operation: Callable, make_inputs: Callable, forward: Cost, backward: Cost
) -> Entry:
    """Return the entry of a norm at its place."""
    return Entry(
        name=name,
        ours=operation(operations("kernels")),
        reference=operation(REFERENCE),
        inputs=make_inputs(WINDOWS),
        small=partial(make_inputs, SMALL_WINDOWS),
        forward=forward,
        backward=backward,
        peers={},
        bars={"forward": Bar(of_floor=0.85), "backward": Bar(of_floor=0.8)},
    )


def test_norm(contest, entry, direction):
    contest(entry.contest(direction))
