"""Attention's kernels against the reference, interpreted in fp32 or on a GPU."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import reference
from kernels.attention.autograd import attention
from kernels.attention.reference import document_bounds, gain_limit, rotate
from kernels.attention.rope import rotated
from tests.kernels.tools.compare import FP32, random_tensors, relative_error
from tests.kernels.tools.twins import launched_and_captured

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BASE, EPS, BOS = 100.0, 1e-3, 1


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fresh tensors hold NaN, so that what a kernel leaves unwritten is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # pyright: ignore[reportAttributeAccessIssue]
    yield
    torch.use_deterministic_algorithms(False)


def random_inputs(
    length: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    gated: bool = False,
    batch: int = 2,
    seed: int = 1,
) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "q": (batch, length, heads, head_dim),
        "k": (batch, length, kv_heads, head_dim),
        "v": (batch, length, kv_heads, head_dim),
        "gain": (heads,),
        "upstream": (batch, length, heads, head_dim),
    }
    if gated:
        shapes["gate"] = (batch, length, heads)
    return random_tensors(seed, **shapes)


ROUNDING = 2.0**-9  # half the distance of bf16's neighbours: the most that one rounding changes


def masked_reference(
    q: Tensor, k: Tensor, v: Tensor, gain: Tensor, rope: Tensor, *, documents: Tensor, **rest: Any
) -> Tensor:
    """The reference on each document by itself, with the rotary of its place in the window."""
    gate = rest.pop("gate", None)
    starts, stops = documents.tolist()
    windows = []
    for row in range(q.size(0)):
        spans = sorted(set(zip(starts[row], stops[row], strict=True)))
        windows.append(
            torch.cat(
                [
                    reference.attention(
                        q[row : row + 1, first:last],
                        k[row : row + 1, first:last],
                        v[row : row + 1, first:last],
                        gain,
                        rope[:, first:last],
                        gate=None if gate is None else gate[row : row + 1, first:last],
                        **rest,
                    )
                    for first, last in spans
                ],
                dim=1,
            )
        )
    return torch.cat(windows)


def results(
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
    *,
    ours: bool,
    rope_dims: int = 8,
    xsa: bool = False,
    documents: Tensor | None = None,
) -> dict[str, Tensor]:
    """The output and the gradient of every input. gain is fp32 beside bf16, as in the model."""
    given = {name: x.to(DEVICE, dtype) for name, x in inputs.items()}
    if dtype == torch.bfloat16:
        given["gain"] = inputs["gain"].to(DEVICE, torch.float32)
    upstream = given.pop("upstream")
    for x in given.values():
        x.requires_grad_()
    rope = reference.rope_table(given["q"].size(1) + 5, rope_dims, BASE, DEVICE)
    rope = rope[:, : given["q"].size(1)].to(torch.float64 if dtype == torch.float64 else None)
    options: dict[str, Any] = {"eps": EPS, "xsa": xsa}
    if documents is not None:
        options["documents"] = documents.to(DEVICE)
    plain = reference.attention if documents is None else masked_reference
    y = (attention if ours else plain)(**given, rope=rope, **options)
    gradients = torch.autograd.grad(y, list(given.values()), upstream)
    return {"y": y.detach()} | dict(zip(given, gradients, strict=True))


def check(inputs: dict[str, Tensor], tolerance: float = FP32, **options: Any) -> None:
    """fp32 kernels agree with the fp64 reference."""
    got = results(inputs, torch.float32, ours=True, **options)
    expected = results(inputs, torch.float64, ours=False, **options)
    for name in expected:
        assert relative_error(got[name], expected[name]) < tolerance, name


def bf16_errors(inputs: dict[str, Tensor], **options: Any) -> dict[str, tuple[float, float]]:
    """Relative errors against fp64: of our bf16 kernels, and of the reference in bf16."""
    inputs = {name: x if name == "gain" else x.bfloat16().double() for name, x in inputs.items()}
    got = results(inputs, torch.bfloat16, ours=True, **options)
    peer = results(inputs, torch.bfloat16, ours=False, **options)
    exact = results(inputs, torch.float64, ours=False, **options)
    return {
        name: (relative_error(got[name], exact[name]), relative_error(peer[name], exact[name]))
        for name in exact
    }


def check_bf16(inputs: dict[str, Tensor], **options: Any) -> None:
    """bf16 kernels are at most 1.5 times as far from fp64 as the reference in bf16.

    One rounding is allowed: the reference has none in the output of a window of one token. Not of
    the gain, whose gradient is a handful of sums over all positions, errors of which are luck.
    """
    errors = bf16_errors(inputs, **options)
    del errors["gain"]
    for name, (ours, peer) in errors.items():
        assert ours <= max(1.5 * peer, ROUNDING), name


def packed_documents(length: int) -> Tensor:
    """Bounds in two windows: one begins inside a document and has documents of one token, one that
    begins with a tile of 16 and one across several; the other is one document."""
    tokens = torch.full((2, length), 7)
    tokens[0, [3, 4, 16, 23]] = BOS
    tokens[1, 0] = BOS
    return document_bounds(tokens, BOS)


# A window of one token; one below, at and above one tile of keys; several tiles and a cut one.
@pytest.mark.parametrize("length", [1, 15, 16, 17, 77], ids=lambda length: f"T {length}")
@pytest.mark.usefixtures("small_tiles")
def test_lengths(length: int) -> None:
    check(random_inputs(length, 4, 2, 16, gated=True, batch=1), xsa=length > 1)


# 3 divides no tile: rows of one position lie in two tiles.
@pytest.mark.parametrize("heads", [1, 2, 3, 4], ids=lambda heads: f"group {heads}")
@pytest.mark.usefixtures("small_tiles")
def test_group_sizes(heads: int) -> None:
    check(random_inputs(21, 2 * heads, 2, 16, seed=heads), xsa=True)


# No rotary; one pair; halves of a 16-byte load; every dim.
@pytest.mark.parametrize("rope_dims", [0, 2, 16, 32])
@pytest.mark.usefixtures("small_tiles")
def test_partial_rotary(rope_dims: int) -> None:
    check(random_inputs(19, 2, 1, 32, batch=1, seed=rope_dims), rope_dims=rope_dims)


def test_shapes_without_a_kernel_are_refused() -> None:
    inputs = random_inputs(3, 2, 1, 32)
    q, k, v, gain = (inputs[name].float() for name in ("q", "k", "v", "gain"))
    with pytest.raises(ValueError, match="12 rotary dims"):
        attention(q, k, v, gain, reference.rope_table(3, 12, BASE, DEVICE), eps=EPS)
    with pytest.raises(ValueError, match="head dim 24"):
        q, k, v = q[..., :24], k[..., :24], v[..., :24]
        attention(q, k, v, gain, reference.rope_table(3, 8, BASE, DEVICE), eps=EPS)


@pytest.mark.parametrize("gated", [False, True], ids=["", "gate"])
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
@pytest.mark.usefixtures("small_tiles")
def test_options(gated: bool, xsa: bool, documents: bool) -> None:
    inputs = random_inputs(50, 4, 2, 16, gated=gated, seed=5)
    check(inputs, xsa=xsa, documents=packed_documents(50) if documents else None)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_tiles_really_used(head_dim: int) -> None:
    """More positions than a tile has keys or rows, and a cut one."""
    if head_dim == 128 and DEVICE.type == "cuda":
        pytest.skip("fp32 tiles of 128 dims exceed shared memory: test_bf16 has them")
    inputs = random_inputs(150, 2, 1, head_dim, gated=True, batch=1, seed=6)
    check(inputs, xsa=True, documents=document_bounds((torch.arange(150) == 70).int()[None], BOS))


@pytest.mark.usefixtures("small_tiles")
def test_a_gain_of_zero_has_its_gradient_and_a_negative_one_its_sign() -> None:
    inputs = random_inputs(21, 4, 2, 16, seed=7)
    inputs["gain"] = torch.tensor([0.0, -1.5, 2.0, -0.0], dtype=torch.float64)
    check(inputs)


@pytest.mark.usefixtures("small_tiles")
def test_large_scores_neither_overflow_nor_vanish() -> None:
    inputs = random_inputs(40, 2, 1, 16, seed=8)
    inputs["gain"] = torch.tensor([100.0, -100.0], dtype=torch.float64)
    # Scores of several hundred are rounded to 2^-24 of themselves before they are exponents.
    check(inputs, tolerance=10 * FP32)


@pytest.mark.usefixtures("small_tiles")
def test_a_value_of_zero_has_no_direction_to_exclude() -> None:
    inputs = random_inputs(9, 2, 1, 16, seed=9)
    inputs["v"][:, 4] = 0
    check(inputs, xsa=True)


@pytest.mark.usefixtures("small_tiles")
def test_reads_slices_of_a_joint_projection_and_copies_what_lies_otherwise() -> None:
    inputs = {n: x.float().to(DEVICE) for n, x in random_inputs(20, 4, 2, 16, seed=10).items()}
    rope = reference.rope_table(20, 8, BASE, DEVICE)
    q, k, v = (inputs[name] for name in ("q", "k", "v"))
    joint = torch.cat((q, k, v), dim=2)
    sliced = joint.split((4, 2, 2), dim=2)
    apart = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    plain = attention(q, k, v, inputs["gain"], rope, eps=EPS, xsa=True)
    for q_too, k_too, v_too in (sliced, apart):
        again = attention(q_too, k_too, v_too, inputs["gain"], rope, eps=EPS, xsa=True)
        assert torch.equal(again, plain)


@pytest.mark.usefixtures("small_tiles")
def test_same_inputs_same_bits() -> None:
    inputs = random_inputs(37, 4, 2, 16, gated=True, seed=11)
    one, other = (results(inputs, torch.float32, ours=True, xsa=True) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("small_tiles")
def test_other_documents_leave_no_trace() -> None:
    inputs = random_inputs(50, 2, 1, 16, batch=1, seed=12)
    documents = packed_documents(50)[:, :1]
    clean = results(inputs, torch.float32, ours=True, documents=documents)
    inputs["k"][:, :16] *= -3
    inputs["v"][:, :16] += 5
    inputs["upstream"][:, :16] -= 1
    other = results(inputs, torch.float32, ours=True, documents=documents)
    for name in ("y", "q", "k", "v"):
        assert torch.equal(clean[name][:, 16:], other[name][:, 16:]), name


def test_reference_attention_stays_inside_its_documents() -> None:
    generator = torch.Generator().manual_seed(3)
    tokens = (torch.rand(2, 19, generator=generator) > 0.2).int() + BOS
    documents = document_bounds(tokens, BOS)
    q, k, v = (
        torch.randn(2, 19, heads, 8, generator=generator, dtype=torch.float64)
        for heads in (4, 2, 2)
    )
    gain, gate = torch.ones(4, dtype=torch.float64), torch.randn(2, 19, 4, dtype=torch.float64)
    rope = reference.rope_table(19, 4, BASE, torch.device("cpu")).double()
    options: dict[str, Any] = {"eps": EPS, "xsa": True, "gate": gate, "documents": documents}
    together = reference.attention(q, k, v, gain, rope, **options)
    apart = masked_reference(q, k, v, gain, rope, **options)
    assert relative_error(together, apart) < 1e-12


def test_rotated_keys_and_their_scale() -> None:
    inputs = random_inputs(7, 6, 3, 16)
    q, k, gain = (inputs[name].float().to(DEVICE) for name in ("q", "k", "gain"))
    rope = reference.rope_table(7, 8, BASE, DEVICE)
    _, _, key, rstd = rotated(q, k, rope, EPS, gain)
    expected = rotate(F.rms_norm(k, (16,), eps=EPS), rope)
    assert relative_error(key.transpose(1, 2), expected) < FP32
    expected = (k.square().mean(-1) + EPS).rsqrt()
    assert relative_error(rstd[:, :, :7].transpose(1, 2), expected) < FP32


def test_rotated_queries_lie_by_group_and_are_scaled() -> None:
    inputs = random_inputs(7, 6, 3, 16)
    q, k = (inputs[name].float().to(DEVICE) for name in "qk")
    gain = torch.tensor([1.5, -2.0, 0.0, 3.0, 1e9, 1.0], device=DEVICE)
    query, rstd, _, _ = rotated(q, k, reference.rope_table(7, 8, BASE, DEVICE), EPS, gain)
    normed = rotate(F.rms_norm(q, (16,), eps=EPS), reference.rope_table(7, 8, BASE, DEVICE))
    bounded = gain.clamp(-gain_limit(16), gain_limit(16))
    expected = normed * (bounded * math.log2(math.e) / 4)[:, None]
    expected = expected.view(2, 7, 3, 2, 16).transpose(1, 2).flatten(2, 3)
    assert relative_error(query, expected) < FP32
    expected = (q.square().mean(-1) + EPS).rsqrt().view(2, 7, 3, 2).transpose(1, 2).flatten(2)
    assert relative_error(rstd[:, :, :14], expected) < FP32


@pytest.mark.usefixtures("small_tiles")
def test_a_gain_beyond_its_bound_is_the_bound_and_learns_nothing() -> None:
    inputs = random_inputs(20, 2, 1, 16, seed=17)
    inputs["gain"] = torch.tensor([2 * gain_limit(16), -1.5])
    inputs["q"] /= 30
    check(inputs)
    assert results(inputs, torch.float32, ours=True)["gain"][0] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("gated", [False, True], ids=["", "gate"])
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
@pytest.mark.parametrize("length", [512, 1000], ids=lambda length: f"T {length}")
def test_bf16(length: int, xsa: bool, gated: bool, head_dim: int) -> None:
    inputs = random_inputs(length, 8, 4, head_dim, gated=gated, seed=13)
    check_bf16(inputs, xsa=xsa, rope_dims=16)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("length", "heads", "kv_heads"),
    [(1, 4, 4), (37, 4, 2), (65, 8, 1), (193, 2, 2), (700, 16, 2), (2048, 8, 2)],
)
def test_bf16_of_odd_shapes(length: int, heads: int, kv_heads: int) -> None:
    inputs = random_inputs(length, heads, kv_heads, 64, batch=3, seed=18)
    check_bf16(inputs, xsa=length % 2 == 0, rope_dims=16)
    check_bf16(inputs, xsa=length % 2 == 1, rope_dims=32)


@pytest.mark.gpu
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
def test_bf16_with_documents(xsa: bool) -> None:
    generator = torch.Generator().manual_seed(14)
    tokens = (torch.rand((2, 1000), generator=generator) < 0.01).int()
    inputs = random_inputs(1000, 8, 4, 64, seed=14)
    check_bf16(inputs, xsa=xsa, rope_dims=16, documents=document_bounds(tokens, BOS))


@pytest.mark.gpu
@pytest.mark.parametrize(("batch", "length"), [(1, 40), (3, 3000), (1100, 130)])
def test_bf16_with_documents_of_every_length(batch: int, length: int) -> None:
    """Blocks take items from a counter: fewer items than blocks, uneven ones, and many short."""
    generator = torch.Generator().manual_seed(16)
    chance = 10 ** -(3 * torch.rand((batch, 1), generator=generator))
    tokens = (torch.rand((batch, length), generator=generator) < chance).int()
    inputs = random_inputs(length, 4, 2, 64, batch=batch, seed=16)
    check_bf16(inputs, xsa=True, rope_dims=16, documents=document_bounds(tokens, BOS))


@pytest.mark.gpu
def test_bf16_at_the_real_length_and_same_bits_again() -> None:
    inputs = random_inputs(2048, 8, 4, 64, batch=4, seed=15)
    check_bf16(inputs, xsa=True, rope_dims=16)
    one, other = (
        results(inputs, torch.bfloat16, ours=True, xsa=True, rope_dims=16) for _ in range(2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.gpu
@pytest.mark.parametrize("xsa", [False, True], ids=["", "xsa"])
def test_bf16_gradient_of_the_gain_over_many_draws(xsa: bool) -> None:
    errors = [
        bf16_errors(random_inputs(700, 8, 4, 64, batch=2, seed=seed), xsa=xsa, rope_dims=16)["gain"]
        for seed in range(30, 46)
    ]
    ours, peer = (math.sqrt(sum(error**2 for error in side)) for side in zip(*errors, strict=True))
    assert ours <= 1.5 * peer


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [False, True], ids=["", "documents"])
def test_replays_in_a_cuda_graph(masked: bool) -> None:
    """Each replay counts items anew."""
    inputs = random_inputs(256, 8, 4, 64, gated=True, seed=16)
    tokens = torch.arange(256, device=DEVICE)[None] % 97
    documents = document_bounds(tokens.expand(2, -1), 0) if masked else None
    given = {n: x.to(DEVICE, torch.bfloat16) for n, x in inputs.items()}
    given["gain"] = given["gain"].float()
    upstream = given.pop("upstream")
    leaves = [x.requires_grad_() for x in given.values()]
    rope = reference.rope_table(256, 16, BASE, DEVICE)

    def step() -> tuple[Tensor, ...]:
        y = attention(**given, rope=rope, eps=EPS, xsa=True, documents=documents)
        return y, *torch.autograd.grad(y, leaves, upstream)

    expected, graph, captured = launched_and_captured(step)
    for _ in range(3):
        for each in captured:
            each.detach().fill_(torch.nan)
        graph.replay()
        assert all(torch.equal(one, other) for one, other in zip(captured, expected, strict=True))
