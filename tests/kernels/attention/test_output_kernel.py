"""Attention projected onto the residual stream, against the reference."""

from typing import Any

import pytest
import torch

from kernels.attention import reference
from kernels.attention.self_attention import self_attention
from tests.kernels.attention.test_self_attention_kernel import (
    BASE,
    EPS,
    EXTRAS,
    REAL,
    SMALL,
    check,
    check_bf16,
    inputs_of,
    some_documents,
)
from tests.kernels.tools.twins import DEVICE

ONTO = ("output", "stream")


@pytest.mark.parametrize("onto", [("output",), ONTO], ids=["", "stream"])
@pytest.mark.parametrize("extras", [(), EXTRAS], ids=["", "all"])
@pytest.mark.usefixtures("small_tiles")
def test_options(extras: tuple[str, ...], onto: tuple[str, ...]) -> None:
    check(inputs_of(SMALL, (*extras, *onto)), SMALL, xsa=True, documents=some_documents(2, 37))


@pytest.mark.usefixtures("small_tiles")
def test_it_is_added_in_the_streams_memory_and_weights_may_have_no_gradient() -> None:
    given = {name: x.float().to(DEVICE) for name, x in inputs_of(SMALL, ONTO).items()}
    stream = given.pop("stream")
    rope = reference.rope_table(37, 8, BASE, torch.device(DEVICE))
    options: dict[str, Any] = {"heads": 4, "kv_heads": 2, "rope": rope, "eps": EPS}
    output = given.pop("output")
    projected = self_attention(**given, **options, onto=(output, None))
    given["x"].requires_grad_()
    added = stream.clone()
    assert self_attention(**given, **options, onto=(output, added)) is added
    assert torch.allclose(added, stream + projected, atol=1e-5)
    assert torch.autograd.grad(added.sum(), given["x"])[0].any()


@pytest.mark.gpu
@pytest.mark.parametrize("onto", [("output",), ONTO], ids=["", "stream"])
@pytest.mark.parametrize("extras", [(), EXTRAS], ids=["", "all"])
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
@pytest.mark.parametrize(
    "size", [REAL, (3, 999, 512, 8, 4, 64), (5, 129, 256, 4, 2, 64), (2, 700, 384, 8, 4, 64)]
)
def test_bf16(
    size: tuple[int, ...], xsa: bool, extras: tuple[str, ...], onto: tuple[str, ...]
) -> None:
    check_bf16(inputs_of(size, (*extras, *onto)), size, xsa=xsa)
