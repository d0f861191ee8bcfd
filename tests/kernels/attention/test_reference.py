"""attention: QK norm and gain, partial rotary, causal GQA, XSA, gate."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import operations
from kernels.attention.reference import document_bounds
from tests.kernels.tools import oracle
from tests.kernels.tools.compare import FP64, check, random_tensors, relative_error

ops = operations("reference")
CPU = torch.device("cpu")
HEADS, HEAD_DIM, BASE = 4, 8, 100.0


def inputs_of_attention(length: int, kv_heads: int, *, gated: bool = False) -> dict[str, Any]:
    shapes: dict[str, tuple[int, ...]] = {
        "q": (2, length, HEADS, HEAD_DIM),
        "k": (2, length, kv_heads, HEAD_DIM),
        "v": (2, length, kv_heads, HEAD_DIM),
        "gain": (HEADS,),
    }
    if gated:
        shapes["gate"] = (2, length, HEADS)
    return random_tensors(1, **shapes)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    gate: Tensor | None = None,
    *,
    rope_dims: int = 4,
    eps: float = 1e-6,
    xsa: bool = False,
) -> Tensor:
    rope = ops.rope_table(q.size(1), rope_dims, BASE, CPU).double()
    return ops.attention(q, k, v, gain, rope, eps=eps, xsa=xsa, gate=gate)


def check_attention(
    length: int = 9,
    kv_heads: int = 2,
    gated: bool = False,
    rope_dims: int = 4,
    eps: float = 1e-6,
    xsa: bool = False,
) -> None:
    check(
        lambda **inputs: (attend(**inputs, rope_dims=rope_dims, eps=eps, xsa=xsa),),
        lambda **inputs: (oracle.attended(**inputs, rope=(rope_dims, BASE), eps=eps, xsa=xsa),),
        inputs_of_attention(length, kv_heads, gated=gated),
    )


@pytest.mark.parametrize("length", [1, 7, 33], ids=lambda length: f"T {length}")
def test_causal_attention_at_odd_lengths(length: int) -> None:
    check_attention(length)


@pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["group 1", "group 2", "group 4"])
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
def test_gqa_groups(kv_heads: int, xsa: bool) -> None:
    check_attention(kv_heads=kv_heads, xsa=xsa)


@pytest.mark.parametrize("dims", [0, 2, 4, 8], ids=["none", "one pair", "half", "all"])
def test_partial_rotary(dims: int) -> None:
    check_attention(rope_dims=dims)


def test_qk_norm_takes_its_eps() -> None:
    check_attention(eps=0.3)


@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
def test_attention_gate(xsa: bool) -> None:
    check_attention(gated=True, xsa=xsa)


def test_rope_table_is_cos_and_sin_of_position_over_wavelength() -> None:
    table = ops.rope_table(3000, 16, 10_000.0, CPU)
    assert table.shape == (2, 3000, 8)
    assert table.dtype == torch.float32
    for position, pair in [(0, 0), (1, 0), (2999, 0), (2999, 3), (17, 7)]:
        angle = position * 10_000 ** (-pair / 8)
        cos, sin = table[:, position, pair].tolist()
        # Half a unit in the last place of fp32 below 1: the angle itself is exact to fp64.
        assert cos == pytest.approx(math.cos(angle), abs=2**-24)
        assert sin == pytest.approx(math.sin(angle), abs=2**-24)


def test_rotary_scores_depend_on_distance_alone() -> None:
    """The same query and key everywhere: with rotary on all dims, how much position i gives to
    position j follows from i - j, so a value at the same distance weighs the same ratio."""
    inputs = inputs_of_attention(6, 2)
    for name in ("q", "k"):
        inputs[name] = inputs[name][:, :1].expand_as(inputs[name])
    inputs["v"] = torch.eye(6, HEAD_DIM, dtype=torch.float64)[None, :, None].expand(2, 6, 2, -1)
    weights = attend(**inputs, rope_dims=HEAD_DIM)[0, :, 0]
    ratio_late, ratio_early = weights[5, 5] / weights[5, 3], weights[3, 3] / weights[3, 1]
    assert ratio_late.item() == pytest.approx(ratio_early.item(), rel=1e-6)  # an fp32 table
    assert abs(ratio_late.item() - 1) > 1e-3


def test_qk_norm_makes_attention_blind_to_the_length_of_q_and_k() -> None:
    inputs = inputs_of_attention(9, 2)
    longer = inputs | {"q": 7 * inputs["q"], "k": 0.5 * inputs["k"]}
    assert relative_error(attend(**longer, eps=1e-30), attend(**inputs, eps=1e-30)) < FP64


def test_xsa_leaves_nothing_along_a_positions_own_value() -> None:
    inputs = inputs_of_attention(9, 2)
    y = attend(**inputs, xsa=True).view(2, 9, 2, 2, HEAD_DIM)
    v_projection = (y * inputs["v"][:, :, :, None]).sum(-1)
    assert float(v_projection.abs().max()) < FP64
    assert float(y[:, 1:].norm()) > 1


def test_attention_returns_the_queries_dtype() -> None:
    inputs = inputs_of_attention(9, 2, gated=True)
    half = {name: tensor.bfloat16() for name, tensor in inputs.items()}
    half["gain"] = inputs["gain"].float()
    rope = ops.rope_table(9, 4, BASE, CPU)
    assert ops.attention(**half, rope=rope, eps=1e-6, xsa=True).dtype == torch.bfloat16


def test_document_bounds_by_hand() -> None:
    tokens = torch.tensor([[5, 5, 1, 5, 1, 1, 5], [1, 5, 5, 5, 5, 5, 5]])
    start, stop = document_bounds(tokens, 1).tolist()
    assert start == [[0, 0, 2, 2, 4, 5, 5], [0] * 7]
    assert stop == [[2, 2, 4, 4, 5, 7, 7], [7] * 7]
