"""Attention from its input, against the reference: interpreted in fp32 as a product and
``rotate_kernel``, in bf16 on Hopper by the kernel that is both."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import qkv_hopper, reference
from kernels.attention.reference import document_bounds, gain_limit, rotate
from kernels.attention.self_attention import self_attention
from tests.kernels.tools.compare import FP32, random_tensors, relative_error
from tests.kernels.tools.twins import (
    DEVICE,
    SHARE_OF_BF16,
    cast,
    launched_and_captured,
    poisoned,
    results,
)

BASE, EPS, BOS = 100.0, 1e-3, 1
EXTRAS = ("gate", "lookup")
# Of the whole operation: B, T, C, H, G, D.
SMALL = (2, 37, 24, 4, 2, 16)
REAL = (4, 2048, 512, 8, 4, 64)
# A tile has 128 rows, of several windows where those are short: B, T, C, H, G and rotary dims.
PROJECTED = {
    "real length": (48, 2048, 512, 8, 4, 16),
    "odd length": (3, 999, 512, 8, 4, 16),
    "many windows in a tile": (41, 7, 512, 8, 2, 32),
    "windows of one token": (130, 1, 256, 8, 4, 16),
    "one row": (1, 1, 64, 2, 2, 16),
    "group 1": (2, 700, 320, 4, 4, 16),
    "group 8, fewer steps than buffers": (1, 333, 192, 16, 2, 32),
}


def inputs_of(size: tuple[int, ...], extras: tuple[str, ...] = (), seed: int = 1) -> dict:
    B, T, C, H, G, D = size
    shapes: dict[str, tuple[int, ...]] = {
        "x": (B, T, C),
        "weight": ((H + 2 * G) * D, C),
        "gain": (H,),
    }
    if "gate" in extras:
        shapes["gate"] = (B, T, H)
    if "lookup" in extras:
        shapes |= {"lookup": (B, T, 32), "lookup_weight": (G * D, 32)}
    of_output = {"output": (C, H * D), "stream": (B, T, C)}
    shapes |= {name: of_output[name] for name in extras if name in of_output}
    drawn = random_tensors(seed, **shapes)
    for name in drawn.keys() & {"weight", "lookup_weight", "output"}:
        drawn[name] /= drawn[name].size(1) ** 0.5
    return drawn


def arguments(given: dict[str, Tensor]) -> dict[str, Any]:
    """``inputs_of`` as arguments of the operation. A kernel adds to a copy of the stream."""
    named: dict[str, Any] = dict(given)
    if "lookup" in named:
        named["lookup"] = named["lookup"], named.pop("lookup_weight")
    if "output" in named:
        stream = named.pop("stream", None)
        named["onto"] = named.pop("output"), None if stream is None else stream.clone()
    return named


def errors(
    inputs: dict[str, Tensor],
    size: tuple[int, ...],
    dtype: torch.dtype,
    *,
    rope_dims: int = 8,
    seed: int = 1,
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Against fp64, of ours in ``dtype`` and of the reference in it: y's and every gradient's."""
    _, T, _, _, G, _ = size
    rope = reference.rope_table(T + 5, rope_dims, BASE, torch.device(DEVICE))[:, :T]

    def of(operation: Any) -> Any:
        def call(**given: Tensor) -> list[Tensor]:
            named = arguments(given)
            return [operation(**named, kv_heads=G, rope=rope, eps=EPS, **options)]

        return call

    rounded = cast(inputs, dtype, ("gain",))
    with poisoned():
        ours = results(of(self_attention), rounded, seed)
    plain = of(reference.self_attention)
    exact = results(plain, cast(rounded, torch.float64), seed)
    theirs = results(plain, rounded, seed)
    assert ours.keys() == exact.keys()
    assert all(ours[name].dtype == theirs[name].dtype for name in ours)
    return {
        name: (relative_error(ours[name], exact[name]), relative_error(theirs[name], exact[name]))
        for name in exact
    }


def check(inputs: dict[str, Tensor], size: tuple[int, ...], **options: Any) -> None:
    for name, (ours, _) in errors(inputs, size, torch.float32, **options).items():
        assert ours < FP32, name


def check_bf16(inputs: dict[str, Tensor], size: tuple[int, ...], **options: Any) -> None:
    """But for the gain's gradient: a handful of sums over all positions, errors of which are
    luck."""
    found = errors(inputs, size, torch.bfloat16, rope_dims=16, **options)
    del found["gradient of gain"]
    for name, (ours, theirs) in found.items():
        assert ours <= SHARE_OF_BF16 * theirs, name


def some_documents(batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    tokens = (torch.rand(batch, length, generator=generator) < 0.1).int()
    return document_bounds(tokens, BOS).to(DEVICE)


@pytest.mark.parametrize("extras", [(), ("gate",), ("lookup",), EXTRAS], ids=", ".join)
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
@pytest.mark.usefixtures("small_tiles")
def test_options(extras: tuple[str, ...], xsa: bool) -> None:
    check(inputs_of(SMALL, extras), SMALL, xsa=xsa)


# One token; one less than a tile of keys; no rotary.
@pytest.mark.parametrize(("length", "rope_dims"), [(1, 8), (15, 16), (33, 0)])
@pytest.mark.usefixtures("small_tiles")
def test_lengths(length: int, rope_dims: int) -> None:
    size = (1, length, *SMALL[2:])
    check(inputs_of(size, EXTRAS, seed=2), size, rope_dims=rope_dims)


@pytest.mark.usefixtures("small_tiles")
def test_documents() -> None:
    check(inputs_of(SMALL, EXTRAS, seed=3), SMALL, xsa=True, documents=some_documents(2, 37))


@pytest.mark.usefixtures("small_tiles")
def test_an_input_that_is_no_contiguous_one_and_weights_without_gradients() -> None:
    inputs = {name: x.float().to(DEVICE) for name, x in inputs_of(SMALL, EXTRAS).items()}
    rope = reference.rope_table(37, 8, BASE, torch.device(DEVICE))
    options: dict[str, Any] = {"kv_heads": 2, "rope": rope, "eps": EPS}
    plain = self_attention(**arguments(inputs), **options)
    inputs["x"] = inputs["x"].transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    y = self_attention(**arguments(inputs), **options)
    assert torch.equal(y, plain)
    assert torch.autograd.grad(y.sum(), inputs["x"])[0].shape == inputs["x"].shape


def test_shapes_without_a_kernel_are_refused() -> None:
    x, weight, gain = torch.zeros(1, 3, 8), torch.zeros(4 * 24, 8), torch.ones(2)
    rope = reference.rope_table(3, 8, BASE, torch.device("cpu"))
    with pytest.raises(ValueError, match="head dim 24"):
        self_attention(x, weight, 1, gain, rope, eps=EPS)


def test_only_hopper_and_bf16_have_the_fused_kernel() -> None:
    assert not qkv_hopper.projections_fit_hopper(
        torch.zeros(4, 512, dtype=torch.bfloat16), 8, 4, 64, 8
    )


def projected(
    given: dict[str, Tensor], size: tuple[int, ...], rope: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """query, key, v and both 1/rms by PyTorch, each step in ``dtype``."""
    _, _, _, H, G, _ = size
    joint = F.linear(given["x"].to(dtype), given["weight"].to(dtype)).unflatten(-1, (-1, 64))
    q, k, v = joint.split((H, G, G), dim=2)
    scale = given["gain"].clamp(-gain_limit(64), gain_limit(64)) * math.log2(math.e) / 8
    query = rotate(F.rms_norm(q, (64,), eps=EPS), rope) * scale.to(dtype)[:, None]
    key = rotate(F.rms_norm(k, (64,), eps=EPS), rope)
    statistics = ((x.double().square().mean(-1) + EPS).rsqrt() for x in (q, k))
    names = ("query", "key", "v", "rstd", "key_rstd")
    return dict(zip(names, (query, key, v, *statistics), strict=True))


def by_kernel(given: dict[str, Tensor], size: tuple[int, ...], rope: Tensor) -> dict[str, Tensor]:
    """The same by ``project_kernel``, as ``projected`` has them: token by token."""
    B, T, _, H, G, _ = size
    assert qkv_hopper.projections_fit_hopper(given["x"].flatten(0, 1), H, G, 64, rope.size(-1))
    found = qkv_hopper.project(given["x"], given["weight"], given["gain"], rope, H, G, EPS)
    query, rstd, key, key_rstd, v = found
    return {
        "query": query.view(B, G, T, -1, 64).transpose(1, 2).flatten(2, 3),
        "key": key.transpose(1, 2),
        "v": v,
        "rstd": rstd[:, :, : T * H // G].view(B, G, T, -1).transpose(1, 2).flatten(2),
        "key_rstd": key_rstd[:, :, :T].transpose(1, 2),
    }


def projected_inputs(size: tuple[int, ...], seed: int) -> tuple[dict[str, Tensor], Tensor]:
    B, T, C, H, G, rope_dims = size
    given = cast(inputs_of((B, T, C, H, G, 64), seed=seed), torch.bfloat16, ("gain",))
    return given, reference.rope_table(T + 3, rope_dims, BASE, torch.device(DEVICE))[:, :T]


@pytest.mark.gpu
@pytest.mark.parametrize("size", PROJECTED.values(), ids=PROJECTED.keys())
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_fused_kernel_is_as_exact_as_pytorch(seed: int, size: tuple[int, ...]) -> None:
    given, rope = projected_inputs(size, seed)
    with poisoned():
        ours = by_kernel(given, size, rope)
    exact = projected(given, size, rope, torch.float64)
    theirs = projected(given, size, rope, torch.bfloat16)
    for name in exact:
        bar = SHARE_OF_BF16 * relative_error(theirs[name], exact[name])
        assert relative_error(ours[name], exact[name]) <= bar, name


@pytest.mark.gpu
def test_the_fused_kernel_gives_the_same_bits_again() -> None:
    given, rope = projected_inputs(PROJECTED["real length"], 4)
    first, *others = (by_kernel(given, PROJECTED["real length"], rope) for _ in range(10))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """Fails where the kernel under test was not the one that ran."""
    calls = []
    launch = qkv_hopper.project
    monkeypatch.setattr(qkv_hopper, "project", lambda *given: calls.append(0) or launch(*given))
    yield calls
    assert calls


@pytest.mark.gpu
@pytest.mark.parametrize("extras", [(), EXTRAS], ids=["", "all"])
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "size", [REAL, (3, 999, 512, 8, 4, 64), (5, 129, 256, 4, 4, 64), (2, 700, 384, 8, 2, 64)]
)
@pytest.mark.usefixtures("fused")
def test_bf16(size: tuple[int, ...], seed: int, xsa: bool, extras: tuple[str, ...]) -> None:
    check_bf16(inputs_of(size, extras, seed), size, seed=seed, xsa=xsa)


@pytest.mark.gpu
@pytest.mark.usefixtures("fused")
def test_bf16_with_documents() -> None:
    size = (2, 999, 512, 8, 4, 64)
    documents = some_documents(2, 999)
    check_bf16(inputs_of(size, EXTRAS, 5), size, xsa=True, documents=documents)


@pytest.mark.gpu
@pytest.mark.usefixtures("fused")
def test_bf16_gradient_of_the_gain_over_many_draws() -> None:
    size = (2, 700, 512, 8, 4, 64)
    pairs = [
        errors(inputs_of(size, seed=seed), size, torch.bfloat16, rope_dims=16, seed=seed)[
            "gradient of gain"
        ]
        for seed in range(30, 46)
    ]
    ours, theirs = (math.hypot(*side) for side in zip(*pairs, strict=True))
    assert ours <= SHARE_OF_BF16 * theirs


@pytest.mark.gpu
@pytest.mark.usefixtures("fused")
def test_replays_in_a_cuda_graph() -> None:
    size = (2, 256, 512, 8, 4, 64)
    given = cast(inputs_of(size, EXTRAS, 6), torch.bfloat16, ("gain",))
    leaves = [x.requires_grad_() for x in given.values()]
    rope = reference.rope_table(256, 16, BASE, torch.device(DEVICE))

    def step() -> tuple[Tensor, ...]:
        y = self_attention(**arguments(given), kv_heads=4, rope=rope, eps=EPS, xsa=True)
        return y, *torch.autograd.grad(y, leaves, torch.ones_like(y))

    expected, graph, captured = launched_and_captured(step)
    graph.replay()
    assert all(torch.equal(one, other) for one, other in zip(captured, expected, strict=True))
