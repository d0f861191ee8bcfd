"""Embedding with bigrams and SmearGate; the quantised compute copy."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from bench.harness.operation import Cost, Entry
from bench.harness.sizes import (
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
from kernels import Operations, operations

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


def window_inputs(windows: int) -> dict:
    """Return inputs of a wide table without bigrams, whose SmearGate reads a window of channels."""
    return {
        "tokens": 8 * random_tokens(windows, TIME),
        "table": random(8 * VOCABULARY, WIDTH).float(),
        "smear_gate": random(12, scale=0.3).float(),
        "smear_scale": random(1).float()[0],
    }


def embedding(ops: Operations):
    def call(inputs):
        rest = dict(inputs)
        wide = rest["table"].dtype == torch.float64
        options = {"dtype": torch.float64 if wide else torch.bfloat16, "eps": EPS, "bos_id": 1}
        if "bigram_table" in rest:
            parts = ("table", "proj", "scale")
            options["bigram"] = tuple(rest.pop(f"bigram_{part}") for part in parts)
        return [ops.embed(**rest, **options)]

    return call


EMBED = ("embed", embed_inputs)
OF_WINDOW = ("embed with a gate of a window", window_inputs)


@pytest.fixture(scope="module", params=[EMBED, OF_WINDOW], ids=lambda param: param[0])
def embed_entry(request) -> Entry:
    return embed_of(*request.param)


def embed_of(name: str, make_inputs: Callable[[int], dict]) -> Entry:
    """Return the entry of an embedding with such inputs."""
    written = TOKENS * WIDTH * BF16
    return Entry(
        name=name,
        ours=embedding(operations("kernels")),
        reference=embedding(operations("reference")),
        inputs=make_inputs(WINDOWS),
        small=partial(make_inputs, SMALL_WINDOWS),
        forward=Cost(written),
        backward=Cost(written),
        peers={},
    )


def test_embed(contest, embed_entry, direction):
    contest(embed_entry.contest(direction))


def quant_inputs(*shape: int) -> dict:
    """Return fp32 inputs, because many bf16 values lie halfway between two codes of the grid.

    PyTorch multiplies by 1/31 on a GPU, the kernel divides by 31, so they round such ties apart.
    """
    return {
        "weight": random(*shape, dtype=torch.float32),
        "row_scale": random(*shape[:-1], dtype=torch.float32),
    }


@pytest.fixture(scope="module")
def quant_entry() -> Entry:
    return quant_of(MLP_WIDTH)


def quant_of(wide: int) -> Entry:
    """Time the MLP's down bank on the grid, with the branch's scale in its rows."""
    lever = torch.tensor(1.0, device="cuda")

    def run(ops: Operations):
        def call(inputs):
            weight, row_scale = inputs["weight"], inputs["row_scale"]
            dtype = torch.float64 if weight.dtype == torch.float64 else torch.bfloat16
            return [ops.quant(weight, dtype, lever, 0.0, row_scale).values]

        return call

    count = LAYERS * wide * WIDTH
    return Entry(
        name="quant",
        ours=run(operations("kernels")),
        reference=run(operations("reference")),
        inputs=quant_inputs(LAYERS, WIDTH, wide),
        small=partial(quant_inputs, 2, 64, wide),
        # In: fp32 weights; out: bf16. Back: gradients and weights in, gradients out in fp32.
        forward=Cost(count * (4 + BF16)),
        backward=Cost(count * (BF16 + 4 + 4)),
        peers={},
    )


def test_quant(contest, quant_entry, direction):
    contest(quant_entry.contest(direction))
