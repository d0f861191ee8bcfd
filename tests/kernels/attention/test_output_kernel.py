"""Attention projected onto the residual stream, against the reference: its gradient in fp32 by a
product and ``backward_prepare``, in bf16 on Hopper by the kernel that is both."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from kernels.attention import backward_prepare_hopper, reference
from kernels.attention.backward_prepare import Gradients, backward_prepare
from kernels.attention.reference import exclude_self, window_bounds
from kernels.attention.rope import padded
from kernels.attention.saved import Saved
from kernels.attention.self_attention import self_attention
from tests.kernels.attention.test_self_attention_kernel import (
    BASE,
    EPS,
    EXTRAS,
    REAL,
    SMALL,
    arguments,
    check,
    check_bf16,
    inputs_of,
    some_documents,
)
from tests.kernels.tools.compare import random_tensors, relative_error
from tests.kernels.tools.twins import DEVICE, SHARE_OF_BF16, cast, launched_and_captured, poisoned

ONTO = ("output", "stream")
ROUNDING = 2.0**-9  # half the distance of bf16's neighbours: the most that one rounding changes
# A tile has 128 rows, of several windows where those are short; a strip is a group: B, T, C, G.
SHAPES = {
    "several tiles a block": (8, 2048, 512, 4),
    "odd length": (3, 999, 512, 4),
    "many windows in a tile": (41, 7, 512, 4),
    "one row": (1, 1, 64, 1),
    "a tile and a row": (1, 129, 320, 2),
    "more rows than a block of each strip has": (1, 17_000, 64, 8),
    "fewer steps than buffers": (2, 333, 192, 3),
}
OPTIONS = {
    "": (),
    "gate": ("gate",),
    "xsa": ("xsa",),
    "documents": ("documents",),
    "gate, xsa": ("gate", "xsa"),
    "all": ("gate", "xsa", "documents"),
}


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
    options: dict[str, Any] = {"kv_heads": 2, "rope": rope, "eps": EPS}
    output = given.pop("output")
    projected = self_attention(**given, **options, onto=(output, None))
    given["x"].requires_grad_()
    added = stream.clone()
    assert self_attention(**given, **options, onto=(output, added)) is added
    assert torch.allclose(added, stream + projected, atol=1e-5)
    assert torch.autograd.grad(added.sum(), given["x"])[0].any()


def test_only_hopper_and_bf16_and_pairs_of_heads_have_the_fused_kernel() -> None:
    assert backward_prepare_hopper.heads_fit(8, 4, 64)
    assert not backward_prepare_hopper.heads_fit(8, 2, 64)
    assert not backward_prepare_hopper.heads_fit(8, 4, 128)
    case = prepared((1, 3, 512, 4), (), 1, torch.device("cpu"))
    assert not backward_prepare_hopper.prepare_fits_hopper(case.doutput, case.saved)


class Case(NamedTuple):
    """What the backward pass reads, which positions (B, T) see only themselves, and the exact dout,
    dgate, XSA's part of dv, and delta."""

    saved: Saved
    doutput: Tensor
    weight: Tensor
    alone: Tensor
    exact: dict[str, Tensor]


def prepared(
    size: tuple[int, ...], options: tuple[str, ...], seed: int, device: torch.device
) -> Case:
    """A softmax's output is random, but where a position sees only itself: there it is the value.

    What is exact follows from the forward pass in fp64, by autograd.
    """
    B, T, C, G = size
    H = 2 * G
    drawn = random_tensors(
        seed,
        doutput=(B * T, C),
        weight=(C, H * 64),
        values=(B, T, G + 2, 64),
        gate=(B, T, H),
        softmax=(B, T, G, 2, 64),
    )
    drawn["weight"] /= C**0.5
    bf16 = {name: x.to(device, torch.bfloat16) for name, x in drawn.items()}
    v = bf16["values"][:, :, 1 : G + 1]
    documents = some_documents(B, T).to(device) if "documents" in options else None
    start = torch.zeros(B, T, device=device) if documents is None else documents[0]
    alone = start == torch.arange(T, device=device)
    of_heads = alone[:, :, None, None, None]
    softmax = torch.where(of_heads, v.double()[:, :, :, None], bf16["softmax"].double()).flatten(
        2, 3
    )
    leaves = {"dout": softmax, "dv": v.double(), "dgate": bf16["gate"].double()}
    dout, dv, dgate = (leaf.requires_grad_() for leaf in leaves.values())
    y = exclude_self(dout, dv) if "xsa" in options else dout
    y = y * dgate.sigmoid()[..., None] if "gate" in options else y
    dy = (bf16["doutput"].double() @ bf16["weight"].double()).view(B, T, H, 64)
    found = torch.autograd.grad(y, list(leaves.values()), dy, allow_unused=True)
    exact = {n: x for n, x in zip(leaves, found, strict=True) if x is not None}
    exact["delta"] = (exact["dout"] * softmax).sum(-1).detach()
    v_projection = None
    if "xsa" in options:
        direction = torch.nn.functional.normalize(v.double(), dim=-1)[:, :, :, None]
        along = (softmax.detach().unflatten(2, (G, 2)) * direction).sum(-1)
        v_projection = torch.zeros(B, G, padded(2 * T), device=device)
        v_projection[:, :, : 2 * T] = along.transpose(1, 2).flatten(2)
    empty = torch.empty(0, device=device)
    saved = Saved(
        query=bf16["doutput"].new_empty(B, G, 2 * T, 64),
        rstd=empty,
        key=bf16["doutput"].new_empty(B, G, T, 64),
        key_rstd=empty,
        v=v,
        y=y.detach().bfloat16().contiguous(),
        lse=empty,
        v_projection=v_projection,
        gain=empty,
        rope=empty,
        gate=bf16["gate"] if "gate" in options else None,
        documents=documents,
    )
    return Case(saved, bf16["doutput"], bf16["weight"], alone, exact)


def by_kernel(case: Case, fused: bool) -> dict[str, Tensor]:
    """The same by the fused kernel, or by a product and ``backward_prepare``.

    All that no kernel should write stays NaN.
    """
    saved, doutput, weight, _, _ = case
    (B, T, H, D), G = saved.y.shape, saved.v.size(2)
    with poisoned():
        joint = doutput.new_empty(B, T, H + 2 * G, D)
        dq, dk, dv = joint.split((H, G, G), dim=2)
        dgate = None if saved.gate is None else torch.empty_like(saved.gate)
        delta = torch.empty(B, G, padded(2 * T), device=doutput.device)
        results = Gradients(dgate, torch.empty_like(saved.y), delta, dv)
    if fused:
        assert backward_prepare_hopper.prepare_fits_hopper(doutput, saved)
        backward_prepare_hopper.backward_prepare(saved, doutput, weight, results)
    else:
        backward_prepare(saved, (doutput @ weight).view_as(saved.y), results)
    assert dq.isnan().all() and dk.isnan().all() and delta[:, :, 2 * T :].isnan().all()
    assert saved.v_projection is not None or dv.isnan().all()
    of_rows = delta[:, :, : 2 * T].unflatten(2, (T, 2)).transpose(1, 2).flatten(2)
    found = {"dout": results.dout, "dv": dv, "dgate": dgate, "delta": of_rows}
    return {name: x for name, x in found.items() if name in case.exact and x is not None}


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("size", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_fused_kernel_is_as_exact_as_a_product_and_another_kernel(
    seed: int, size: tuple[int, ...], options: tuple[str, ...]
) -> None:
    case = prepared(size, options, seed, torch.device(DEVICE))
    ours, theirs = by_kernel(case, fused=True), by_kernel(case, fused=False)
    assert ours.keys() == case.exact.keys()
    # All that a delta of zero has is rounding: of dout, and of the value that it is multiplied by.
    least = {"delta": case.exact["dout"].norm() * 64**0.5} if size[1] == 1 else {}
    for name, exact in case.exact.items():
        assert not ours[name].isnan().any(), name
        scale = max(exact.norm(), least.get(name, 0))
        off, other, apart = (
            ((one.double() - two).norm() / scale).item()
            for one, two in (
                (ours[name], exact),
                (theirs[name], exact),
                (ours[name], theirs[name].double()),
            )
        )
        assert off <= max(SHARE_OF_BF16 * other, ROUNDING), name
        assert apart <= 4 * ROUNDING, name
    # There the score's gradient, dout . v - delta, is zero with dout as rounded.
    products = ours["dout"].unflatten(2, (-1, 2)).double() * case.saved.v[:, :, :, None].double()
    left = (products.sum(-1).flatten(2) - ours["delta"])[case.alone]
    assert (left.abs() <= 2.0**-18 * products.abs().sum(-1).flatten(2)[case.alone]).all()


@pytest.mark.gpu
def test_a_value_of_zero_has_no_direction_to_exclude() -> None:
    case = prepared((2, 300, 512, 4), ("xsa", "gate"), 5, torch.device(DEVICE))
    case.saved.v[:, 4] = 0
    ours, theirs = by_kernel(case, fused=True), by_kernel(case, fused=False)
    for name in ours:
        assert torch.isfinite(ours[name]).all(), name
        assert relative_error(ours[name][:, 5:], theirs[name][:, 5:].double()) <= 4 * ROUNDING
        assert relative_error(ours[name][:, 4], theirs[name][:, 4].double()) <= 4 * ROUNDING


@pytest.mark.gpu
@pytest.mark.parametrize("options", [(), OPTIONS["all"]], ids=["", "all"])
def test_the_fused_kernel_gives_the_same_bits_again(options: tuple[str, ...]) -> None:
    case = prepared(SHAPES["several tiles a block"], options, 4, torch.device(DEVICE))
    first, *others = (by_kernel(case, fused=True) for _ in range(10))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where the kernel under test was not the one that ran."""
    calls = []
    launch = backward_prepare_hopper.backward_prepare
    monkeypatch.setattr(
        backward_prepare_hopper,
        "backward_prepare",
        lambda *given: calls.append(0) or launch(*given),
    )
    yield
    assert calls


@pytest.mark.gpu
@pytest.mark.parametrize("onto", [("output",), ONTO], ids=["", "stream"])
@pytest.mark.parametrize("extras", [(), EXTRAS], ids=["", "all"])
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
@pytest.mark.parametrize(
    "size", [REAL, (3, 999, 512, 8, 4, 64), (5, 129, 256, 4, 2, 64), (2, 700, 384, 8, 4, 64)]
)
@pytest.mark.usefixtures("fused")
def test_bf16(
    size: tuple[int, ...], xsa: bool, extras: tuple[str, ...], onto: tuple[str, ...]
) -> None:
    check_bf16(inputs_of(size, (*extras, *onto)), size, xsa=xsa)


@pytest.mark.gpu
@pytest.mark.usefixtures("fused")
def test_bf16_with_documents() -> None:
    size = (2, 999, 512, 8, 4, 64)
    inputs = inputs_of(size, (*EXTRAS, *ONTO), 5)
    check_bf16(inputs, size, xsa=True, documents=some_documents(2, 999))


@pytest.mark.gpu
@pytest.mark.parametrize("window", [40, 128])
@pytest.mark.usefixtures("fused")
def test_bf16_with_near_windows(window: int) -> None:
    size = (3, 1999, 512, 8, 4, 64)
    tokens = torch.zeros(3, 1999, device=DEVICE)
    bounds = window_bounds(tokens, window, some_documents(3, 1999))
    inputs = inputs_of(size, (*EXTRAS, *ONTO), window)
    check_bf16(inputs, size, xsa=True, documents=bounds, window=window)


@pytest.mark.gpu
def test_bf16_of_groups_of_four() -> None:
    size = (2, 700, 512, 8, 2, 64)
    check_bf16(inputs_of(size, (*EXTRAS, *ONTO), 6), size, xsa=True)


@pytest.mark.gpu
@pytest.mark.usefixtures("fused")
def test_replays_in_a_cuda_graph() -> None:
    size = (2, 256, 512, 8, 4, 64)
    given = cast(inputs_of(size, (*EXTRAS, *ONTO), 6), torch.bfloat16, ("gain",))
    leaves = [x.requires_grad_() for x in given.values()]
    rope = reference.rope_table(256, 16, BASE, torch.device(DEVICE))
    options: dict[str, Any] = {"kv_heads": 4, "rope": rope, "eps": EPS, "xsa": True}

    def step() -> tuple[Tensor, ...]:
        y = self_attention(**arguments(given), **options)
        return y, *torch.autograd.grad(y, leaves, torch.ones_like(y))

    expected, graph, captured = launched_and_captured(step)
    for _ in range(3):
        graph.replay()
        assert all(torch.equal(one, other) for one, other in zip(captured, expected, strict=True))
