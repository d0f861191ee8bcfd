"""self_attention: attention of the projections of one input."""

from dataclasses import replace
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


def inputs_of(lookup: bool, gated: bool, *onto: str) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "x": (2, 9, WIDTH),
        "weight": ((HEADS + 2 * KV_HEADS) * HEAD_DIM, WIDTH),
        "gain": (HEADS,),
    }
    if lookup:
        shapes |= {"lookup": (2, 9, 5), "lookup_weight": (KV_HEADS * HEAD_DIM, 5)}
    if gated:
        shapes["gate"] = (2, 9, HEADS)
    of_output = {"output": (6, HEADS * HEAD_DIM), "stream": (2, 9, 6)}
    shapes |= {name: of_output[name] for name in onto}
    return random_tensors(1, **shapes)


def operation(call: Any, **options: Any) -> Any:
    """``self_attention`` as a function of tensors by name, to compare."""

    def named(**given: Any) -> list[Tensor]:
        if "lookup" in given:
            given["lookup"] = given["lookup"], given.pop("lookup_weight")
        if "output" in given:
            given["onto"] = given.pop("output"), given.pop("stream", None)
        return [call(**given, **options)]

    return named


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
    options: dict[str, Any] = {"kv_heads": KV_HEADS, "rope": rope, "eps": EPS}
    check(
        operation(ops.self_attention, **options, xsa=xsa),
        lambda **inputs: [attended(**inputs, xsa=xsa)],
        inputs_of(lookup, gated),
    )


@pytest.mark.parametrize("onto", [("output",), ("output", "stream")], ids=["", "stream"])
def test_its_projection(onto: tuple[str, ...]) -> None:
    rope = ops.rope_table(9, 4, BASE, torch.device("cpu")).double()
    options: dict[str, Any] = {"kv_heads": KV_HEADS, "rope": rope, "eps": EPS}

    def projected(output: Tensor, stream: Tensor | None = None, **rest: Tensor) -> list[Tensor]:
        y = torch.einsum("bti,ci->btc", attended(**rest, xsa=True).flatten(2), output)
        return [y if stream is None else stream + y]

    check(
        operation(ops.self_attention, **options, xsa=True),
        projected,
        inputs_of(False, True, *onto),
    )


def test_composed_of_other_operations_it_calls_them() -> None:
    seen = []

    def projections(*given: Any, **options: Any) -> tuple[Tensor, ...]:
        seen.append("projections")
        return ops.projections(*given, **options)

    def attention(*given: Any, **options: Any) -> Tensor:
        seen.append("attention")
        return ops.attention(*given, **options)

    def linear_add(*given: Any) -> Tensor:
        seen.append("linear_add")
        return ops.linear_add(*given)

    inputs = inputs_of(True, True, "output", "stream")
    rope = ops.rope_table(9, 4, BASE, torch.device("cpu")).double()
    options: dict[str, Any] = {"kv_heads": KV_HEADS, "rope": rope, "eps": EPS}
    (plain,) = operation(ops.self_attention, **options)(**inputs)
    composed = compose(replace(ops, projections=projections, linear_add=linear_add), attention)
    assert torch.equal(operation(composed, **options)(**inputs)[0], plain)
    assert seen == ["projections", "attention", "linear_add"]
