"""Embedding with bigrams and SmearGate; the quantised compute copy."""

import torch

from bench.operation import Cost, Entry
from bench.sizes import (
    BF16,
    EPS,
    MLP_WIDTH,
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

BIGRAM_ROWS, BIGRAM_DIM, LAYERS = 2048, 128, 11


def embed_inputs(windows: int) -> dict:
    return {
        "tokens": random_tokens(windows, TIME),
        "table": random(VOCABULARY, WIDTH).float(),
        "smear_gate": random(WIDTH).float(),
        "bigram_table": random(BIGRAM_ROWS, BIGRAM_DIM).float(),
        "bigram_proj": random(WIDTH, BIGRAM_DIM, scale=BIGRAM_DIM**-0.5),
        "bigram_scale": random(1).float()[0],
    }


def test_embed(contest):
    def run(namespace):
        def call(inputs):
            rest = dict(inputs)
            bigram = tuple(rest.pop(f"bigram_{part}") for part in ("table", "proj", "scale"))
            dtype = bigram[1].dtype
            return [namespace.embed(**rest, bigram=bigram, dtype=dtype, eps=EPS, bos_id=1)]

        return call

    written = TOKENS * WIDTH * BF16
    entry = Entry(
        name="embed",
        ours=run(operations("kernels")),
        reference=run(reference),
        inputs=embed_inputs(WINDOWS),
        small=embed_inputs(SMALL_WINDOWS),
        forward=Cost(written),
        backward=Cost(written),
        peers={},
    )
    for direction in entry.contests():
        contest(direction)


def test_quant(contest):
    lever = torch.tensor(1.0, device="cuda")

    def run(namespace):
        return lambda inputs: [namespace.quant(inputs["weight"], torch.bfloat16, lever)]

    shape = (LAYERS, MLP_WIDTH, WIDTH)
    count = LAYERS * MLP_WIDTH * WIDTH
    entry = Entry(
        name="quant",
        ours=run(operations("kernels")),
        reference=run(reference),
        inputs={"weight": random(*shape).float()},
        small={"weight": random(2, 64, WIDTH).float()},
        forward=Cost(count * (4 + BF16)),
        backward=Cost(count * (4 + BF16)),
        peers={},
    )
    for direction in entry.contests():
        contest(direction)
