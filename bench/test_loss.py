"""The loss of the main and two MTP heads, and the memory that it takes."""

import torch

from bench.operation import Cost, Entry, round_call
from bench.sizes import (
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
from kernels import operations, reference

PRODUCT = 2 * TOKENS * WIDTH * VOCABULARY * (1 + MTP_HEADS)
HIDDEN = TOKENS * WIDTH * BF16
MOST_MEMORY = 0.6 * 2**30  # bytes above the inputs


def make_inputs(windows: int) -> dict:
    return {
        "hidden": random(windows, TIME, WIDTH),
        "head": random(VOCABULARY, WIDTH, scale=0.05),
        "mtp_heads": random(MTP_HEADS, VOCABULARY, WIDTH, scale=0.05),
        "targets": random_tokens(windows, TIME),
    }


def run(namespace):
    weight = torch.tensor(0.1, device="cuda")
    return lambda inputs: namespace.loss(**inputs, softcap=30.0, mtp_weight=weight)


def test_loss(contest):
    entry = Entry(
        name="loss",
        ours=run(operations("kernels")),
        reference=run(reference),
        inputs=make_inputs(WINDOWS),
        small=make_inputs(SMALL_WINDOWS),
        forward=Cost(HIDDEN, PRODUCT),
        backward=Cost(2 * HIDDEN, 2 * PRODUCT),
        peers={},
        slack=2e-4,  # the training loss itself has the bias of an approximate tanh
    )
    for direction in entry.contests():
        # The gradients are computed in the forward pass, and again for a repeated backward pass.
        if direction.name != "loss, backward":
            contest(direction)


def test_loss_memory():
    call = round_call(run(operations("kernels")), make_inputs(WINDOWS))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    taken = torch.cuda.max_memory_allocated() - before
    assert taken < MOST_MEMORY, f"{taken / 2**30:.2f} GiB above the inputs"
