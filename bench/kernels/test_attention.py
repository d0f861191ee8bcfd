"""Attention with its surroundings, against those under torch.compile around cuDNN's attention.

cuDNN's, FlexAttention's and FlashAttention's attention alone are no fair peers, because they
compute no norm, rotary and gain. They are the target.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from bench.harness.bar import Bar
from bench.harness.contest import Contest
from bench.harness.operation import Cost, Entry, forward_call
from bench.harness.sizes import (
    BF16,
    EPS,
    HEAD_DIM,
    KEY_HEADS,
    QUERY_HEADS,
    ROPE_DIMS,
    SMALL_WINDOWS,
    TIME,
    TOKENS,
    WIDTH,
    WINDOWS,
    random,
    random_tokens,
)
from kernels import Operations, operations
from kernels.attention.autograd import attend
from kernels.attention.flash import cumulative_lengths
from kernels.attention.peers import attention_by
from kernels.attention.reference import document_bounds, rope_table, scaled_dot_product
from kernels.attention.rope import rotated
from kernels.peers import of

PRODUCT = 2 * TOKENS * TIME // 2 * QUERY_HEADS * HEAD_DIM  # one causal product, flops
QUERIES = TOKENS * QUERY_HEADS * HEAD_DIM * BF16
KEYS = TOKENS * KEY_HEADS * HEAD_DIM * BF16
FORWARD = Cost(2 * QUERIES + 2 * KEYS, 2 * PRODUCT)
BACKWARD = Cost(4 * QUERIES + 4 * KEYS, 5 * PRODUCT)
# From its input: x in, y out, and query, key and v kept; back, all of that and dy in, dx out.
INPUT = TOKENS * WIDTH * BF16
PROJECTED = (QUERY_HEADS + 2 * KEY_HEADS) * HEAD_DIM
PROJECTION = 2 * TOKENS * WIDTH * PROJECTED
FROM_INPUT = Cost(INPUT + 2 * QUERIES + 2 * KEYS, 2 * PRODUCT + PROJECTION)
TO_INPUT = Cost(2 * INPUT + 3 * QUERIES + 2 * KEYS, 5 * PRODUCT + 2 * PROJECTION)
# Ours with all its surroundings should take less time than cuDNN's without any.
BARS = {
    "forward": Bar({"cuDNN alone": 1 / 0.96}),
    "backward": Bar({"cuDNN alone": 1 / 0.90}),
    "both": Bar({"compiled": 1.30}),
}


def make_inputs(windows: int) -> dict:
    return {
        "q": random(windows, TIME, QUERY_HEADS, HEAD_DIM),
        "k": random(windows, TIME, KEY_HEADS, HEAD_DIM),
        "v": random(windows, TIME, KEY_HEADS, HEAD_DIM),
        "gain": random(QUERY_HEADS).float() + 1.5,
    }


@pytest.fixture(scope="module", params=[False, True], ids=["surroundings", "xsa"])
def entry(request) -> Entry:
    return surrounded(request.param)


def surrounded(xsa: bool) -> Entry:
    """Return attention with all that surrounds it."""
    rope = rope_table(TIME, ROPE_DIMS, 10_000.0, torch.device("cuda"))

    def run(ops: Operations):
        return lambda inputs: [ops.attention(**inputs, rope=rope, eps=EPS, xsa=xsa)]

    return Entry(
        name=f"attention with {'XSA' if xsa else 'surroundings'}",
        ours=run(operations("kernels")),
        reference=run(operations("reference", "cudnn")),
        inputs=make_inputs(WINDOWS),
        small=partial(make_inputs, SMALL_WINDOWS),
        forward=FORWARD,
        backward=BACKWARD,
        peers={} if xsa else attentions_alone(),
        bars={"both": BARS["both"]} if xsa else BARS,
    )


def test_attention(contest, entry, direction):
    contest(entry.contest(direction))


def test_attention_alone(contest):
    """Time ours on queries and keys that are normed and rotated, as the projection returns them.

    The backward pass has no such part, because its surroundings are in the kernels of the products.
    """
    inputs = make_inputs(WINDOWS)
    rope = rope_table(TIME, ROPE_DIMS, 10_000.0, torch.device("cuda"))
    parts = rotated(inputs["q"], inputs["k"], rope, EPS, inputs["gain"])
    given = (*parts, inputs["v"], inputs["gain"], rope, None, None, False)
    contest(
        Contest(
            name="attention alone, forward",
            ours=lambda: attend(*given),
            peers={name: forward_call(peer, inputs) for name, peer in attentions_alone().items()},
            check=lambda: surrounded(xsa=False).checked,
            bytes_moved=FORWARD.bytes_moved,
            flops=FORWARD.flops,
            bar=BARS["forward"],
        )
    )


def input_and_weights(windows: int) -> dict:
    return {
        "x": random(windows, TIME, WIDTH),
        "weight": random(PROJECTED, WIDTH, scale=WIDTH**-0.5),
        "gain": random(QUERY_HEADS).float() + 1.5,
    }


@pytest.fixture(scope="module")
def from_its_input() -> Entry:
    return attention_of_input()


def attention_of_input() -> Entry:
    """Return projections of one input, and attention of them with XSA."""
    rope = rope_table(TIME, ROPE_DIMS, 10_000.0, torch.device("cuda"))
    options = {"kv_heads": KEY_HEADS, "rope": rope, "eps": EPS, "xsa": True}

    def run(ops: Operations):
        return lambda inputs: [ops.self_attention(**inputs, **options)]

    return Entry(
        name="attention from its input",
        ours=run(operations("kernels")),
        reference=run(operations("reference", "cudnn")),
        inputs=input_and_weights(WINDOWS),
        small=partial(input_and_weights, SMALL_WINDOWS),
        forward=FROM_INPUT,
        backward=TO_INPUT,
        peers={},
        bars={"both": BARS["both"]},
    )


def test_attention_from_its_input(contest, from_its_input, direction):
    contest(from_its_input.contest(direction))


def document_inputs(windows: int) -> dict:
    """Return inputs whose documents have a mean of 1,024 tokens, one window's as it comes."""
    tokens = random_tokens(windows, TIME)
    return make_inputs(windows) | {"documents": document_bounds(tokens, bos_id=1)}


@pytest.fixture(scope="module")
def of_documents() -> Entry:
    made = attention_of_documents()
    return replace(made, peers=attentions_alone(made.inputs["documents"]))


def attention_of_documents() -> Entry:
    """Return attention inside documents."""
    rope = rope_table(TIME, ROPE_DIMS, 10_000.0, torch.device("cuda"))
    inputs = document_inputs(WINDOWS)

    def run(ops: Operations):
        return lambda inputs: [ops.attention(**inputs, rope=rope, eps=EPS)]

    return Entry(
        name="attention of documents",
        ours=run(operations("kernels")),
        reference=run(operations("reference", "cudnn")),
        inputs=inputs,
        small=partial(document_inputs, SMALL_WINDOWS),
        forward=inside(FORWARD, inputs["documents"]),
        backward=inside(BACKWARD, inputs["documents"]),
        peers={},
    )


def inside(whole: Cost, documents: Tensor) -> Cost:
    """Return the cost with the products of visible pairs only, documents (2, B, T)."""
    starts = documents[0]
    length = starts.size(1)
    pairs = (torch.arange(1, length + 1, device=starts.device) - starts).sum().item()
    all_pairs = starts.size(0) * length * (length + 1) // 2
    return replace(whole, flops=round(whole.flops * pairs / all_pairs))


def test_attention_of_documents(contest, of_documents, direction):
    """A run makes lengths and masks once a step."""
    contest(of_documents.contest(direction))


def attentions_alone(documents: Tensor | None = None) -> dict[str, Callable]:
    """Return other packages' attention of queries, keys and values as they are.

    Args:
        documents: (2, B, T) bounds of the only batch that they are given, or None.
    """
    makers: dict[str, Callable] = {"FlexAttention alone": flex(documents)}
    lengths = None if documents is None else cumulative_lengths(documents)
    if documents is None:
        makers |= {"cuDNN alone": attention_by("cudnn"), "FA2 alone": flash_2}
    for peer in of("attention"):
        function = peer.load()
        if function is not None:
            makers[f"{peer.name} alone"] = partial(function, lengths=lengths)
    return {name: partial(alone, attend) for name, attend in makers.items()}


def alone(attend, inputs) -> list[torch.Tensor]:
    return [attend(inputs["q"], inputs["k"], inputs["v"])]


def flash_2(q, k, v) -> torch.Tensor:
    """Run PyTorch's FlashAttention-2."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product(q, k, v)


def flex(documents: Tensor | None) -> Callable:
    """Return FlexAttention with its blocks of keys, compiled."""

    def visible(b, h, query, key):
        seen = key <= query
        return seen if documents is None else seen & (key >= documents[0, b, query])

    windows = None if documents is None else WINDOWS
    mask = create_block_mask(visible, windows, None, TIME, TIME, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q, k, v):
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        return compiled(*heads_first, block_mask=mask, enable_gqa=True).transpose(1, 2)

    return attend
