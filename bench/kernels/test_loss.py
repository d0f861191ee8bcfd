"""The loss of the main and two MTP heads, and of a wide head that predicts three targets."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from bench.harness.bar import Bar
from bench.harness.operation import Cost, Entry, Operation, forward_call, round_call
from bench.harness.sizes import (
    BF16,
    MTP_HEADS,
    SMALL_WINDOWS,
    TIME,
    TOKENS,
    VOCABULARY,
    WIDTH,
    WINDOWS,
    random,
    random_tokens,
)
from kernels import Operations, operations
from kernels.peers import of

PRODUCT = 2 * TOKENS * WIDTH * VOCABULARY * (1 + MTP_HEADS)
WIDE, WIDE_PRODUCT = 8192, 2 * TOKENS * WIDTH * 8192
HIDDEN = TOKENS * WIDTH * BF16
# In training the loss itself is off by a mean of the approximate tanh's errors.
APPROXIMATE = 2e-4


def make_inputs(windows: int) -> dict:
    return {
        "hidden": random(windows, TIME, WIDTH),
        "head": random(VOCABULARY, WIDTH, scale=0.05),
        "mtp_heads": random(MTP_HEADS, VOCABULARY, WIDTH, scale=0.05),
        "targets": random_tokens(windows, TIME),
    }


def wide_inputs(windows: int) -> dict:
    return {
        "hidden": random(windows, TIME, WIDTH),
        "head": random(WIDE, WIDTH, scale=0.05),
        "targets": 8 * random_tokens(windows, TIME),
    }


def run_wide(ops: Operations):
    weights = torch.tensor([0.5, 0.25], device="cuda")
    return lambda inputs: ops.loss(**inputs, softcap=30.0, further_weights=weights)


def run(ops: Operations):
    weight = torch.tensor(0.1, device="cuda")
    return lambda inputs: ops.loss(**inputs, softcap=30.0, mtp_weight=weight)


# A repeated backward pass recomputes the gradients that the forward pass has computed.
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_loss(contest, direction):
    entry = Entry(
        name="loss",
        ours=run(operations("kernels")),
        reference=run(operations("reference")),
        inputs=make_inputs(WINDOWS),
        small=partial(make_inputs, SMALL_WINDOWS),
        forward=Cost(HIDDEN, PRODUCT),
        backward=Cost(2 * HIDDEN, 2 * PRODUCT),
        peers={},
        bars={"both": Bar(ratios={"compiled": 1.5}, memory=0.6 * 2**30)},
        exact_enough=APPROXIMATE,
    )
    contest(entry.contest(direction))


def wide_entry(name: str, run: Callable[[Operations], Operation], **more: Any) -> Entry:
    """Return the entry of a head of 8,192 pieces; ``more`` are further fields."""
    return Entry(
        name=name,
        ours=run(operations("kernels")),
        reference=run(operations("reference")),
        inputs=wide_inputs(WINDOWS),
        small=partial(wide_inputs, 1),
        forward=Cost(HIDDEN, WIDE_PRODUCT),
        backward=Cost(2 * HIDDEN, 2 * WIDE_PRODUCT),
        exact_enough=APPROXIMATE,
        **more,
    )


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_wide_loss(contest, direction):
    bars = {"both": Bar(memory=0.8 * 2**30)}
    entry = wide_entry("loss of 8,192 pieces", run_wide, peers={}, bars=bars)
    contest(entry.contest(direction))


def run_one(ops: Operations):
    return lambda inputs: ops.loss(**inputs, softcap=30.0)


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_loss_of_one_target(contest, direction):
    """Against other packages, which know no further targets, and return no loss of a token."""
    entry = wide_entry("loss of one target", run_one, peers=peers(waits=False))
    make_call = forward_call if direction == "forward" else round_call
    launched = {name: make_call(call, entry.inputs) for name, call in peers(waits=True).items()}
    contest(replace(entry.contest(direction), launched=launched))


def peers(waits: bool) -> dict:
    """Return installed packages' losses, those whose host waits for the device or the others."""
    rows = [peer for peer in of("loss") if peer.waits == waits]
    calls = {peer.name: call for peer in rows if (call := peer.load()) is not None}
    return {
        name: partial(lambda call, inputs: [call(**inputs, softcap=30.0)], call)
        for name, call in calls.items()
    }
