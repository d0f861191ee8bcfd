"""Attention with its surroundings, against those under torch.compile and against cuDNN alone.

The second is no fair contest, for cuDNN's has no norm, rotary and gain to do: it is the bar.
"""

import pytest
import torch
import torch.nn.functional as F

from bench.operation import Cost, Entry
from bench.sizes import (
    BF16,
    EPS,
    HEAD_DIM,
    KEY_HEADS,
    QUERY_HEADS,
    ROPE_DIMS,
    SMALL_WINDOWS,
    TIME,
    TOKENS,
    WINDOWS,
    random,
)
from kernels import operations, reference
from training.trainer import prefer_cudnn_attention

PRODUCT = 2 * TOKENS * TIME // 2 * QUERY_HEADS * HEAD_DIM  # one causal product, flops
QUERIES = TOKENS * QUERY_HEADS * HEAD_DIM * BF16
KEYS = TOKENS * KEY_HEADS * HEAD_DIM * BF16
FORWARD = Cost(2 * QUERIES + 2 * KEYS, 2 * PRODUCT)
BACKWARD = Cost(4 * QUERIES + 4 * KEYS, 5 * PRODUCT)


def make_inputs(windows: int) -> dict:
    return {
        "q": random(windows, TIME, QUERY_HEADS, HEAD_DIM),
        "k": random(windows, TIME, KEY_HEADS, HEAD_DIM),
        "v": random(windows, TIME, KEY_HEADS, HEAD_DIM),
        "gain": random(QUERY_HEADS).float() + 1.5,
    }


@pytest.mark.parametrize("xsa", [False, True])
def test_attention_with_its_surroundings(contest, xsa):
    rope = reference.rope_table(TIME, ROPE_DIMS, 10_000.0, torch.device("cuda"))

    def run(namespace):
        return lambda inputs: [namespace.attention(**inputs, rope=rope, eps=EPS, xsa=xsa)]

    entry = Entry(
        name=f"attention with {'XSA' if xsa else 'surroundings'}",
        ours=run(operations("kernels")),
        reference=run(reference),
        inputs=make_inputs(WINDOWS),
        small=make_inputs(SMALL_WINDOWS),
        forward=FORWARD,
        backward=BACKWARD,
        peers={"cuDNN alone": attention_alone},
    )
    prefer_cudnn_attention()
    for direction in entry.contests():
        contest(direction)


def attention_alone(inputs) -> list[torch.Tensor]:
    """PyTorch's attention of queries, keys and values as they are."""
    heads_first = (inputs[name].transpose(1, 2) for name in ("q", "k", "v"))
    return [F.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)]
