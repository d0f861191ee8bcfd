"""Attention's kernels within sliding windows, which are bounds as documents are, against a mask
that is made here, position by position."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.attention import reference
from kernels.attention.autograd import NEAR, attention
from kernels.attention.reference import document_bounds, scaled_dot_product, window_bounds
from kernels.attention.self_attention import self_attention
from tests.kernels.tools.compare import FP32, random_tensors, relative_error
from tests.kernels.tools.twins import DEVICE, SHARE_OF_BF16, cast, poisoned, results

BASE, EPS, BOS = 100.0, 1e-3, 1
ROUNDING = 2.0**-9
OPTIONS = list(product((False, True), repeat=3))  # xsa, gate, documents


def tokens_of(batch: int, length: int, share: float) -> Tensor:
    """Of which ``share`` begin a document; a document lies across the beginning."""
    generator = torch.Generator().manual_seed(length)
    return (torch.rand((batch, length), generator=generator) < share).int()


def visible(tokens: Tensor, window: int, documents: bool) -> Tensor:
    """(B, 1, T, T): whether position i sees position j."""
    T = tokens.size(1)
    mask = torch.zeros(len(tokens), 1, T, T, dtype=torch.bool)
    for b, row in enumerate(tokens.tolist()):
        begin = 0
        for i, token in enumerate(row):
            begin = i if documents and token == BOS else begin
            mask[b, 0, i, max(begin, i - window + 1) : i + 1] = True
    return mask.to(DEVICE)


def inputs_of(size: tuple[int, ...], gated: bool, seed: int) -> dict[str, Tensor]:
    """B, T, H, G, D."""
    B, T, H, G, D = size
    shapes: dict[str, tuple[int, ...]] = {
        "q": (B, T, H, D),
        "k": (B, T, G, D),
        "v": (B, T, G, D),
        "gain": (H,),
    }
    return random_tensors(seed, **shapes, **({"gate": (B, T, H)} if gated else {}))


def errors(
    inputs: dict[str, Tensor],
    tokens: Tensor,
    window: int,
    documents: bool,
    dtype: torch.dtype,
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Against fp64, of the kernels in ``dtype`` and of the reference in it."""
    T = tokens.size(1)
    rope = reference.rope_table(T + 5, 16, BASE, torch.device(DEVICE))[:, :T]
    inside = document_bounds(tokens, BOS) if documents else None
    bounds, mask = (
        window_bounds(tokens, window, inside).to(DEVICE),
        visible(tokens, window, documents),
    )

    def ours(**given: Tensor) -> list[Tensor]:
        return [attention(**given, rope=rope, eps=EPS, documents=bounds, **options)]

    def plain(**given: Tensor) -> list[Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> Tensor:
            return scaled_dot_product(q, k, v, mask)

        return [reference.attention(**given, rope=rope, eps=EPS, attend=attend, **options)]

    rounded = cast(inputs, dtype, ("gain",))
    with poisoned():
        got = results(ours, rounded, seed=1)
    exact = results(plain, cast(rounded, torch.float64), seed=1)
    peer = results(plain, rounded, seed=1)
    assert got.keys() == exact.keys()
    if window == 1:  # Scores have no gradient then: rounding is compared with that of values.
        for name in ("gradient of q", "gradient of k", "gradient of gain"):
            assert got[name].norm() < 0.02 * exact["gradient of v"].norm(), name
            del exact[name]
    return {n: (relative_error(got[n], exact[n]), relative_error(peer[n], exact[n])) for n in exact}


def check(size: tuple[int, ...], window: int, options: tuple[bool, bool, bool], seed: int) -> None:
    xsa, gated, documents = options
    inputs, tokens = inputs_of(size, gated, seed), tokens_of(size[0], size[1], 0.08)
    found = errors(inputs, tokens, window, documents, torch.float32, xsa=xsa)
    for name, (ours, _) in found.items():
        assert ours < FP32, name


@pytest.mark.parametrize(("xsa", "gated", "documents"), OPTIONS)
@pytest.mark.usefixtures("small_tiles")
def test_options(xsa: bool, gated: bool, documents: bool) -> None:
    """A window of less than a tile of keys and rows, over several tiles and a cut one."""
    check((1, 45, 4, 2, 16), 11, (xsa, gated, documents), seed=2)


# Itself alone; two; around one and two tiles of 16 keys; all but one token; more than there are.
@pytest.mark.parametrize("window", [1, 2, 16, 17, 33, 54, 1000])
@pytest.mark.usefixtures("small_tiles")
def test_windows(window: int) -> None:
    check((1, 55, 4, 2, 16), window, (False, True, False), seed=window)


@pytest.mark.parametrize(("length", "heads"), [(1, 2), (31, 6), (64, 2)])
@pytest.mark.usefixtures("small_tiles")
def test_lengths_and_groups(length: int, heads: int) -> None:
    check((2, length, heads, 2, 16), 7, (length > 1, False, True), seed=length)


def test_tiles_really_used() -> None:
    check((1, 150, 2, 1, 64), 37, (True, True, True), seed=6)


def test_bounds_by_hand() -> None:
    tokens = torch.tensor([[7, 7, BOS, 7, 7, 7]])
    assert window_bounds(tokens, 2).tolist() == [[[0, 0, 1, 2, 3, 4]], [[2, 3, 4, 5, 6, 6]]]
    found = window_bounds(tokens, 3, document_bounds(tokens, BOS))
    assert found.tolist() == [[[0, 0, 2, 2, 2, 3]], [[2, 2, 5, 6, 6, 6]]]
    assert found.dtype == torch.int32 and found.is_contiguous()


@pytest.mark.usefixtures("small_tiles")
def test_a_window_of_all_tokens_has_the_bits_of_no_window() -> None:
    given = cast(inputs_of((2, 37, 4, 2, 16), True, 3), torch.float32)
    rope = reference.rope_table(37, 8, BASE, torch.device(DEVICE))
    bounds = window_bounds(torch.zeros(2, 37, device=DEVICE), 37)
    options: dict[str, Any] = {"rope": rope, "eps": EPS, "xsa": True}
    one = results(lambda **g: [attention(**g, **options, documents=bounds)], given, seed=1)
    other = results(lambda **g: [attention(**g, **options)], given, seed=1)
    assert all(torch.equal(one[name], other[name]) for name in one)


def check_end_to_end(
    size: tuple[int, ...], window: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Rows of documents give what they give end to end in one row, as flat packing lays them.

    Angles of rotary begin anew with each row in both forms: only their differences matter.
    """
    given = cast(inputs_of(size, True, 7), dtype, ("gain",))
    tokens = tokens_of(size[0], size[1], 0.05 if size[1] < 100 else 1e-3).to(DEVICE)
    tokens[:, 0] = BOS
    rope = reference.rope_table(size[1], 16, BASE, torch.device(DEVICE))

    def found(tokens: Tensor, rope: Tensor) -> dict[str, Tensor]:
        bounds = window_bounds(tokens, window, document_bounds(tokens, BOS))
        options: dict[str, Any] = {"rope": rope, "eps": EPS, "xsa": True, "documents": bounds}
        shaped = {
            name: tensor.view(*tokens.shape, *tensor.shape[2:]) if tensor.dim() > 1 else tensor
            for name, tensor in given.items()
        }
        with poisoned():
            return results(lambda **g: [attention(**g, **options)], shaped, seed=1)

    rows, flat = found(tokens, rope), found(tokens.view(1, -1), rope.repeat(1, size[0], 1))
    for name, expected in rows.items():
        assert relative_error(flat[name].view_as(expected), expected) < tolerance, name


@pytest.mark.usefixtures("small_tiles")
def test_packed_documents_end_to_end() -> None:
    check_end_to_end((3, 40, 4, 2, 16), 25, torch.float32, FP32)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [1024, 2048])
def test_bf16_of_packed_documents_end_to_end(window: int) -> None:
    """At the real size: one row of 98,304 tokens."""
    check_end_to_end((48, 2048, 8, 4, 64), window, torch.bfloat16, 3 * ROUNDING)


def check_bf16(
    size: tuple[int, ...], window: int, options: tuple[bool, bool, bool], seed: int
) -> None:
    """At most 1.5 times as far from fp64 as the reference in bf16; one rounding is allowed.

    Not the gain's gradient: it is a handful of sums over all positions, errors of which are luck.
    """
    xsa, gated, documents = options
    inputs, tokens = inputs_of(size, gated, seed), tokens_of(size[0], size[1], 0.01)
    found = errors(inputs, tokens, window, documents, torch.bfloat16, xsa=xsa)
    found.pop("gradient of gain", None)
    for name, (ours, peer) in found.items():
        assert ours <= max(SHARE_OF_BF16 * peer, ROUNDING), name


@pytest.mark.gpu
@pytest.mark.parametrize(("xsa", "gated", "documents"), OPTIONS)
def test_bf16_options(xsa: bool, gated: bool, documents: bool) -> None:
    check_bf16((2, 1000, 8, 4, 64), 100, (xsa, gated, documents), seed=11)


# Around a tile of keys and an item of rows; several items; all but one token; more than there are.
@pytest.mark.gpu
@pytest.mark.parametrize("window", [1, 16, 63, 64, 65, 96, 192, 193, 500, 998, 999, 5000])
def test_bf16_windows(window: int) -> None:
    check_bf16((2, 999, 8, 4, 64), window, (window % 2 == 0, False, True), seed=window)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("length", "heads", "kv_heads"),
    [(37, 4, 2), (65, 8, 1), (193, 2, 2), (700, 16, 2), (2048, 8, 2), (2049, 8, 4)],
)
def test_bf16_of_odd_shapes(length: int, heads: int, kv_heads: int) -> None:
    size = (3, length, heads, kv_heads, 64)
    check_bf16(size, length // 3, (True, True, False), seed=length)


@pytest.mark.gpu
def test_bf16_of_head_dim_128() -> None:
    check_bf16((2, 500, 4, 2, 128), 70, (True, True, True), seed=128)


def from_the_input(
    size: tuple[int, ...], bounds: Tensor, window: int | None, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Results of ``self_attention``, told ``window``: ours, in fp64, and PyTorch's in dtype."""
    B, T, H, G, C = size
    drawn = random_tensors(4, x=(B, T, C), weight=((H + 2 * G) * 64, C), gain=(H,))
    drawn["weight"] /= C**0.5
    rounded = cast(drawn, dtype, ("gain",))
    rope = reference.rope_table(T, 16, BASE, torch.device(DEVICE))

    def of(operation: Any) -> Any:
        options = {"rope": rope, "eps": EPS, "xsa": True, "documents": bounds, "window": window}
        return lambda **given: [operation(**given, kv_heads=G, **options)]

    with poisoned():
        ours = results(of(self_attention), rounded, seed=1)
    exact = results(of(reference.self_attention), cast(rounded, torch.float64), seed=1)
    return ours, exact, results(of(reference.self_attention), rounded, seed=1)


@pytest.mark.parametrize("window", [2, 20, NEAR])
def test_kernels_for_near_windows(window: int) -> None:
    """They compute what the others do, also where documents cut windows."""
    bounds = window_bounds(
        tokens_of(2, 150, 0.05), window, document_bounds(tokens_of(2, 150, 0.05), BOS)
    )
    ours, exact, _ = from_the_input((2, 150, 4, 2, 64), bounds.to(DEVICE), window, torch.float32)
    for name in exact:
        assert relative_error(ours[name], exact[name]) < FP32, name


@pytest.mark.gpu
@pytest.mark.parametrize("window", [2, 64, 128, 255, 256])
@pytest.mark.parametrize("seed", [1, 2])
def test_bf16_of_near_windows_in_documents(window: int, seed: int) -> None:
    tokens = tokens_of(3, 2000 + seed, 0.01)
    bounds = window_bounds(tokens, window, document_bounds(tokens, BOS)).to(DEVICE)
    size = (3, 2000 + seed, 8, 4, 512)
    check_against_pytorch(*from_the_input(size, bounds, window, torch.bfloat16))


@pytest.mark.gpu
@pytest.mark.parametrize(("window", "told"), [(64, None), (200, 200), (300, 300)])
def test_bf16_from_the_input_on(window: int, told: int | None) -> None:
    """The fused projections pass bounds on."""
    bounds = window_bounds(torch.zeros(2, 999, device=DEVICE), window)
    check_against_pytorch(*from_the_input((2, 999, 8, 4, 512), bounds, told, torch.bfloat16))


def check_against_pytorch(
    ours: dict[str, Tensor], exact: dict[str, Tensor], theirs: dict[str, Tensor]
) -> None:
    """At most 1.5 times as far from fp64 as PyTorch, the gain's gradient left out."""
    for name in exact.keys() - {"gradient of gain"}:
        allowed = SHARE_OF_BF16 * relative_error(theirs[name], exact[name])
        assert relative_error(ours[name], exact[name]) <= max(allowed, ROUNDING), name


@pytest.mark.gpu
def test_same_inputs_same_bits() -> None:
    given = cast(inputs_of((4, 2048, 8, 4, 64), True, 5), torch.bfloat16, ("gain",))
    rope = reference.rope_table(2048, 16, BASE, torch.device(DEVICE))
    bounds = window_bounds(torch.zeros(4, 2048, device=DEVICE), 200)

    def ours(**given: Tensor) -> list[Tensor]:
        return [attention(**given, rope=rope, eps=EPS, xsa=True, documents=bounds)]

    first, *others = (results(ours, given, seed=1) for _ in range(10))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
