"""The MLP, forward and backward."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench.harness.bar import Bar
from bench.harness.contest import Contest
from bench.harness.operation import Cost, Entry
from bench.harness.sizes import BF16, MLP_WIDTH, SMALL_WINDOWS, TIME, TOKENS, WIDTH, WINDOWS, random
from kernels import Operations, operations
from kernels.mlp import reference
from kernels.operand import Operand, rounded
from kernels.peers import of


def make_inputs(wide: int, windows: int) -> dict:
    return {
        "x": random(windows, TIME, WIDTH),
        "up": random(wide, WIDTH, scale=WIDTH**-0.5),
        "down": random(WIDTH, wide, scale=wide**-0.5),
    }


def peers() -> dict:
    calls = {peer.name: call for peer in of("mlp") if (call := peer.load()) is not None}
    return {
        name: partial(lambda call, inputs: [call(**inputs)], call) for name, call in calls.items()
    }


@pytest.fixture(scope="module")
def entry() -> Entry:
    return replace(mlp_of(MLP_WIDTH), peers=peers())


def mlp_of(wide: int) -> Entry:
    """Return the entry of an MLP of this width."""
    product = 2 * TOKENS * WIDTH * wide
    narrow, hidden = TOKENS * WIDTH * BF16, TOKENS * wide * BF16

    def run(ops: Operations):
        return lambda inputs: [ops.mlp(**inputs, slope=0.75)]

    return Entry(
        name="mlp",
        ours=run(operations("kernels")),
        reference=run(operations("reference")),
        inputs=make_inputs(wide, WINDOWS),
        small=partial(make_inputs, wide, SMALL_WINDOWS),
        forward=Cost(2 * narrow + hidden, 2 * product),
        backward=Cost(3 * narrow + hidden, 4 * product),
        peers={},
        bars={"both": Bar({"compiled": 1.10})},
    )


def test_mlp(contest, entry, direction):
    contest(entry.contest(direction))


WIDER = 2048  # preset frontier's
SLOPE = 0.3


def test_mlp_in_fp8(contest):
    """Time the forward in fp8, its operands rounded already, against ours in bf16.

    The gradients are bf16's. _scaled_mm makes the two products alone, with scales of rows.
    """
    given = fp8_inputs(WINDOWS)
    operands, stream = (
        [rounded(given[name], given[name]) for name in ("x", "up", "down")],
        given["y"],
    )
    mlp, native = operations("kernels").mlp, [given[name] for name in ("x", "up", "down")]
    peers: dict[str, Callable] = {"bf16": lambda: mlp(*native, slope=SLOPE, stream=stream)}
    if hasattr(torch, "_scaled_mm"):
        hidden = rounded(random(TOKENS, WIDER), random(1))
        pairs = (operands[0], operands[1]), (hidden, operands[2])
        peers["_scaled_mm alone"] = lambda: [scaled_product(*pair) for pair in pairs]
    narrow, wide = TOKENS * WIDTH, TOKENS * WIDER
    contest(
        Contest(
            name="mlp in fp8, forward",
            ours=lambda: mlp(*operands, slope=SLOPE, stream=stream),
            peers=peers,
            check=check_fp8,
            bytes_moved=narrow * (1 + 2 * BF16) + wide * (BF16 + 2),
            flops=2 * 2 * narrow * WIDER // 2,  # of bf16's at the ceiling, which fp8 doubles
            bar=Bar({"bf16": 1.3}),
        )
    )


def fp8_inputs(windows: int) -> dict:
    return {
        "x": random(windows, TIME, WIDTH),
        "up": random(WIDER, WIDTH, scale=WIDTH**-0.5),
        "down": random(WIDTH, WIDER, scale=WIDER**-0.5),
        "y": random(windows, TIME, WIDTH),
    }


def check_fp8() -> None:
    """Compare with the reference in fp64, which rounds as the kernels do."""
    given = fp8_inputs(SMALL_WINDOWS)
    operands = [rounded(given[name], given[name]) for name in ("x", "up", "down")]
    widened = [
        each._replace(source=each.source.double()) for each in operands if each.source is not None
    ]
    exact = reference.mlp(*widened, slope=SLOPE, stream=given["y"].double())
    error = operations("kernels").mlp(*operands, slope=SLOPE, stream=given["y"]).double() - exact
    assert float(error.norm() / exact.norm()) < 1e-2


def scaled_product(x: Operand, weight: Operand) -> torch.Tensor:
    """Return PyTorch's product of two operands in fp8, in bf16."""
    assert x.scale is not None and weight.scale is not None
    values, scale = x.values.view(-1, x.values.size(-1)), x.scale.view(-1, 1)
    factors = {"scale_a": scale, "scale_b": weight.scale[None]}
    return torch._scaled_mm(
        values, weight.values.T, **factors, out_dtype=torch.bfloat16, use_fast_accum=True
    )
