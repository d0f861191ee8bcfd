"""Attention of chunks of documents over kept keys, as test-time training of adapters takes it.

The peer is the reference around what PyTorch chooses, which is cuDNN's attention on Hopper GPUs.
"""

from functools import partial

import pytest
import torch
from torch import Tensor

from bench.harness.operation import Cost, Entry
from bench.harness.sizes import BF16, EPS, HEAD_DIM, KEY_HEADS, QUERY_HEADS, ROPE_DIMS, random
from kernels import Operations, operations
from kernels.attention import Kept
from kernels.attention.reference import chunk_bounds, rope_at

# A batch of preset frontier-sprint in the middle of its documents, of windows of 2,048.
DOCUMENTS, SIZE, PLACE, RING, SEEN = 64, 64, 704, 2176, 2048
SMALL_DOCUMENTS = 2
LINE = DOCUMENTS * HEAD_DIM * BF16
QUERIES = LINE * SIZE * QUERY_HEADS
KEYS = LINE * SIZE * KEY_HEADS
KEPT = LINE * PLACE * KEY_HEADS
OWN = DOCUMENTS * QUERY_HEADS * SIZE * SIZE // 2 * 2 * HEAD_DIM  # one causal product, flops
OVER_KEPT = DOCUMENTS * QUERY_HEADS * SIZE * PLACE * 2 * HEAD_DIM
FORWARD = Cost(2 * QUERIES + 2 * KEYS + 2 * KEPT, 2 * (OWN + OVER_KEPT))
# What is kept gets no gradient, so its scores are multiplied for those of queries alone.
BACKWARD = Cost(4 * QUERIES + 4 * KEYS + 2 * KEPT, 5 * OWN + 3 * OVER_KEPT)


def make_inputs(documents: int) -> dict[str, Tensor]:
    """Return inputs; with XSA and a gate, as the preset's."""
    return {
        "q": random(documents, SIZE, QUERY_HEADS, HEAD_DIM),
        "k": random(documents, SIZE, KEY_HEADS, HEAD_DIM),
        "v": random(documents, SIZE, KEY_HEADS, HEAD_DIM),
        "gain": random(QUERY_HEADS).float() + 1.5,
        "gate": random(documents, SIZE, QUERY_HEADS),
        "kept": normed_cache(documents),
    }


def normed_cache(documents: int) -> Tensor:
    """Return kept keys and values, (2, N, R, G, D)."""
    drawn = random(2, documents, RING, KEY_HEADS, HEAD_DIM)
    return torch.nn.functional.rms_norm(drawn, (HEAD_DIM,))


@pytest.fixture(scope="module")
def of_chunks() -> Entry:
    place = torch.tensor(PLACE, device="cuda")
    position = torch.arange(SIZE, device="cuda")
    rope = rope_at(PLACE + position, ROPE_DIMS, 10_000.0)
    bounds = chunk_bounds(place, position.expand(DOCUMENTS, SIZE), SEEN)

    def run(ops: Operations):
        def attend(inputs) -> list[Tensor]:
            given = dict(inputs)
            kept = Kept(given.pop("kept").detach(), place)
            documents = bounds[:, : len(given["q"])].contiguous()
            options = {"rope": rope, "kept": kept, "documents": documents}
            return [ops.cached_attention(**given, **options, eps=EPS, xsa=True)[0]]

        return attend

    return Entry(
        name="attention of chunks over kept keys",
        ours=run(operations("kernels")),
        reference=run(operations("reference")),
        inputs=make_inputs(DOCUMENTS),
        small=partial(make_inputs, SMALL_DOCUMENTS),
        forward=FORWARD,
        backward=BACKWARD,
        peers={},
    )


def test_attention_of_chunks(contest, of_chunks, direction):
    contest(of_chunks.contest(direction))
