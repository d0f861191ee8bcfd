"""self_attention: attention of the projections of one input."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import operations
from kernels.attention.reference import compose
from tests.kernels.tools import oracle
from tests.kernels.tools.compare import check, random_tensors

ops = operations("reference")
HEADS, KV_HEADS, HEAD_DIM, WIDTH, BASE, EPS = 4, 2, 8, 12, 100.0, 1e-6


def inputs_of(lookup: bool, gated: bool) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "x": (2, 9, WIDTH),
        "weight": ((HEADS + 2 * KV_HEADS) * HEAD_DIM, WIDTH),
        "gain": (HEADS,),
    }
    if lookup:
        shapes |= {"lookup": (2, 9, 5), "lookup_weight": (KV_HEADS * HEAD_DIM, 5)}
    if gated:
        shapes["gate"] = (2, 9, HEADS)
    return random_tensors(1, **shapes)


def attended(
    x: Tensor, weight: Tensor, lookup: Tensor | None = None, lookup_weight: Any = None, **rest: Any
) -> Tensor:
    """By the oracle, each projection by itself."""
    q, k, v = (
        torch.einsum("bti,hdi->bthd", x, part.unflatten(0, (-1, HEAD_DIM)))
        for part in weight.split([heads * HEAD_DIM for heads in (HEADS, KV_HEADS, KV_HEADS)])
    )
    if lookup is not None:
        v = v + torch.einsum("bti,hdi->bthd", lookup, lookup_weight.unflatten(0, (-1, HEAD_DIM)))
    return oracle.attended(q, k, v, rope=(4, BASE), eps=EPS, **rest)


@pytest.mark.parametrize("lookup", [False, True], ids=["", "lookup"])
@pytest.mark.parametrize("gated", [False, True], ids=["", "gate"])
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
def test_is_attention_of_the_projections(lookup: bool, gated: bool, xsa: bool) -> None:
    rope = ops.rope_table(9, 4, BASE, torch.device("cpu")).double()
    options: dict[str, Any] = {"heads": HEADS, "kv_heads": KV_HEADS, "rope": rope, "eps": EPS}
    check(
        lambda **inputs: [ops.self_attention(**inputs, **options, xsa=xsa)],
        lambda **inputs: [attended(**inputs, xsa=xsa)],
        inputs_of(lookup, gated),
    )


def test_composed_of_two_operations_it_calls_both() -> None:
    seen = []

    def projections(*given: Any, **options: Any) -> tuple[Tensor, ...]:
        seen.append("projections")
        return ops.projections(*given, **options)

    def attention(*given: Any, **options: Any) -> Tensor:
        seen.append("attention")
        return ops.attention(*given, **options)

    inputs = inputs_of(lookup=True, gated=True)
    rope = ops.rope_table(9, 4, BASE, torch.device("cpu")).double()
    options: dict[str, Any] = {"heads": HEADS, "kv_heads": KV_HEADS, "rope": rope, "eps": EPS}
    plain = ops.self_attention(**inputs, **options)
    composed = compose(projections, attention)
    assert torch.equal(composed(**inputs, **options), plain)
    assert seen == ["projections", "attention"]
