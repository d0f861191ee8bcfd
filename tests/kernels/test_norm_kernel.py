"""The norm kernels against the reference, in every form in which the model calls them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.norm import BACKWARD, norm
from kernels.reference import norm as reference
from tests.kernels.compare import random_tensors
from tests.kernels.twins import DEVICE, cast, check_twins, results

VECTORS = ("branch_scale", "skip_weight", "mix")
FORMS = [
    (),
    ("branch",),
    ("skip",),
    ("mix",),
    ("branch", "skip"),
    ("branch", "mix"),
    ("skip", "mix"),
    ("branch", "skip", "mix"),
]
SHAPES = {
    "one row": (1, 1, 64),
    "rows no multiple of a tile, width no power of two": (3, 5, 48),
    "width of two chunks and a masked rest": (1, 6, 320),
    "more rows than programs of one turn": (2, BACKWARD.rows * 9 + 1, 16),
}
SCALE, EPS = 0.6, 1e-3


def inputs_of(parts: tuple[str, ...], shape: tuple[int, ...], seed: int = 1) -> dict[str, Tensor]:
    width = shape[-1]
    shapes: dict[str, tuple[int, ...]] = {"x": shape}
    if "branch" in parts:
        shapes |= {"branch": shape, "branch_scale": (width,)}
    if "skip" in parts:
        shapes |= {"skip": shape, "skip_weight": (width,)}
    if "mix" in parts:
        shapes |= {"x0": shape, "mix": (2, width)}
    return random_tensors(seed, **shapes)


def ours(**inputs: Any) -> tuple[Tensor | None, ...]:
    return norm(scale=SCALE, eps=EPS, **inputs)


def theirs(**inputs: Any) -> tuple[Tensor, ...]:
    return reference(scale=SCALE, eps=EPS, **inputs)


def names(parts: tuple[str, ...]) -> str:
    return "+".join(("x", *parts))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("parts", FORMS, ids=names)
def test_outputs_and_gradients(
    parts: tuple[str, ...], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.norm.BACKWARD", FEW_PROGRAMS)
    seed = len(shape) + shape[1]
    check_twins(ours, theirs, inputs_of(parts, shape, seed), fp32=VECTORS, seed=seed)


# So few that each runs several turns of its loop at sizes that the interpreter can bear.
FEW_PROGRAMS = type(BACKWARD)(rows=BACKWARD.rows, warps=BACKWARD.warps, programs=3)


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("parts", [("branch",), ("branch", "skip", "mix")], ids=names)
def test_gradients_where_outputs_are_unused(parts: tuple[str, ...], used: tuple[int, ...]) -> None:
    expected = {"branch", "skip", "mix"} & set(parts) if used != (0,) else {"branch"}
    found = results(ours, cast(inputs_of(parts, (2, 3, 32)), torch.float32), 1, used)
    exact = results(theirs, cast(inputs_of(parts, (2, 3, 32)), torch.float64), 1, used)
    assert {f"gradient of {part}" for part in expected if part != "mix"} <= found.keys()
    for name, value in found.items():
        # What the used outputs do not depend on may get a zero gradient for none.
        wanted = exact.get(name, torch.zeros_like(value))
        torch.testing.assert_close(value.double(), wanted.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", [("branch",), ("branch", "mix")], ids=names)
def test_a_stream_that_nobody_reads_is_not_written(parts: tuple[str, ...]) -> None:
    def without(**inputs: Any) -> tuple[Tensor | None, ...]:
        return ours(keep_stream=False, **inputs)

    def twin(**inputs: Any) -> tuple[Tensor | None, ...]:
        _, mixed, normed = theirs(**inputs)
        return None, mixed if "mix" in parts else None, normed

    check_twins(without, twin, inputs_of(parts, (3, 5, 48)), fp32=VECTORS)


def test_the_first_layer_mixes_a_tensor_with_itself() -> None:
    check_twins(
        lambda x, mix: ours(x=x, x0=x, mix=mix)[1:],
        lambda x, mix: theirs(x=x, x0=x, mix=mix)[1:],
        random_tensors(5, x=(3, 5, 48), mix=(2, 48)),
        fp32=VECTORS,
    )


def test_a_branch_on_a_tensor_that_is_mixed_with_itself() -> None:
    shape = (3, 5, 48)
    given = random_tensors(6, x=shape, branch=shape, branch_scale=(48,), mix=(2, 48))
    check_twins(
        lambda x, **rest: ours(x=x, x0=x, **rest),
        lambda x, **rest: theirs(x=x, x0=x, **rest),
        given,
        fp32=VECTORS,
    )


def test_equal_outputs_are_one_tensor() -> None:
    given = cast(inputs_of(("branch", "mix"), (1, 2, 16)), torch.float32)
    x, branch, branch_scale = (given[name] for name in ("x", "branch", "branch_scale"))
    stream, mixed, _ = ours(x=x)
    assert stream is x and mixed is x
    stream, mixed, _ = ours(x=x, branch=branch, branch_scale=branch_scale)
    assert stream is mixed
    stream, mixed, _ = ours(x=x, x0=given["x0"], mix=given["mix"])
    assert stream is x and mixed is not x


def test_strided_inputs_and_gradients() -> None:
    def of(operation: Any) -> Any:
        return lambda x, branch, **rest: [
            output.transpose(0, 1)
            for output in operation(x=x.transpose(0, 1), branch=branch.transpose(0, 1), **rest)
        ]

    check_twins(of(ours), of(theirs), inputs_of(("branch",), (3, 5, 48)), fp32=VECTORS)


def test_same_inputs_same_bits() -> None:
    given = cast(inputs_of(("branch", "skip", "mix"), (2, 37, 32)), torch.float32)
    first, second = (results(ours, given, 1) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
@pytest.mark.parametrize("parts", FORMS, ids=names)
def test_bf16_is_as_exact_as_pytorchs(parts: tuple[str, ...]) -> None:
    for seed in range(3):
        given = inputs_of(parts, (3, 1001, 512), seed)
        check_twins(ours, theirs, given, dtype=torch.bfloat16, fp32=VECTORS, seed=seed)


@pytest.mark.gpu
@pytest.mark.parametrize("parts", [("branch",), ("branch", "skip", "mix")], ids=names)
def test_bf16_at_the_real_size(parts: tuple[str, ...]) -> None:
    assert DEVICE == "cuda"
    given = inputs_of(parts, (48, 2048, 512))
    check_twins(ours, theirs, given, dtype=torch.bfloat16, fp32=VECTORS)
