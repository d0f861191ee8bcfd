"""The norm kernels against the reference, in every form in which the model calls them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.norm.mix_norm import LAUNCH, mix_norm
from kernels.norm.norm import norm
from kernels.norm.reference import mix_norm as mix_norm_reference
from kernels.norm.reference import norm as norm_reference
from kernels.operand import Operand, dense
from tests.kernels.tools.compare import random_tensors, relative_error
from tests.kernels.tools.twins import DEVICE, cast, check_twins, poisoned, results

VECTORS = ("skip_weight", "mix", "gate_weight")
SHAPES = {
    "one row": (1, 1, 64),
    "rows no multiple of a tile, width no power of two": (3, 5, 48),
    "width of two chunks and a masked rest": (1, 6, 320),
    "more rows than programs of one turn": (2, LAUNCH["backward"].rows * 9 + 1, 16),
}
SCALE, EPS = 0.6, 1e-3
# So few that each runs several turns of its loop at sizes that the interpreter can bear.
FEW_PROGRAMS = replace(LAUNCH["backward"], programs=3)

skips = pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def entry_inputs(
    skip: bool, shape: tuple[int, ...], seed: int = 1, gate: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    of: dict[str, tuple[int, ...]] = {"stream": shape, "x0": shape, "mix": (2, shape[-1])}
    if skip:
        of |= {"skip": shape, "skip_weight": (shape[-1],)}
    if gate:
        of["gate_weight"] = gate
    return random_tensors(seed, **of)


def entry(**inputs: Any) -> tuple[Tensor | None, ...]:
    return mix_norm(scale=SCALE, eps=EPS, **inputs)


def entry_twin(**inputs: Any) -> tuple[Tensor | None, ...]:
    return mix_norm_reference(scale=SCALE, eps=EPS, **inputs)


def middle(x: Tensor) -> tuple[Tensor, ...]:
    """Of a copy: a leaf may not be handed on to be added to."""
    return norm(x.clone(), scale=SCALE, eps=EPS)


def middle_twin(x: Tensor) -> tuple[Tensor, ...]:
    return norm_reference(x, scale=SCALE, eps=EPS)


@shapes
@pytest.mark.parametrize("scale", [SCALE, -1.0])
def test_norm_in_fp8(shape: tuple[int, ...], scale: float) -> None:
    """Rounded from fp32; the rest equals that of the norm alone, gradients included."""
    x = cast(random_tensors(2, x=shape), torch.float32)["x"].requires_grad_()
    with poisoned():
        stream, found = norm(x.clone(), scale=scale, eps=EPS, fp8=True)
    alone = norm(x.clone(), scale=scale, eps=EPS)
    _, wanted = norm_reference(x, scale=scale, eps=EPS, fp8=True)
    assert isinstance(found, Operand) and isinstance(wanted, Operand) and found.source is not None
    assert torch.equal(stream, alone[0]) and torch.equal(found.source, alone[1])
    assert found.scale is not None and found.scale.shape == shape[:-1]
    torch.testing.assert_close(found.scale, wanted.scale, rtol=1e-6, atol=0)
    assert (found.values.float() == wanted.values.float()).float().mean() > 1 - 2e-3
    assert relative_error(dense(found, torch.float32), dense(wanted, torch.float32)) < 5e-3
    directions = [torch.randn_like(x) for _ in range(2)]
    ours = torch.autograd.grad((stream, found.source), x, directions)
    assert torch.equal(ours[0], torch.autograd.grad(alone, x, directions)[0])


def test_norm_in_fp8_of_zeros_is_zeros() -> None:
    _, found = norm(torch.zeros(1, 9, 64, device=DEVICE), scale=1.0, eps=1e-12, fp8=True)
    assert not dense(found, torch.float32).any()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(48, 2048, 512), (3, 333, 512), (1, 1, 320)])
def test_norm_in_fp8_at_real_sizes(shape: tuple[int, ...]) -> None:
    """As near to the norm as rounding to e4m3 lets it be, and the same bits again."""
    x = random_tensors(3, x=shape)["x"].to(DEVICE).bfloat16()
    with poisoned():
        _, found = norm(x.clone(), scale=SCALE, eps=EPS, fp8=True)
    _, wanted = norm_reference(x.double(), scale=SCALE, eps=EPS, fp8=True)
    assert isinstance(found, Operand) and isinstance(wanted, Operand)
    torch.testing.assert_close(found.scale, wanted.scale, rtol=1e-5, atol=0)
    assert relative_error(dense(found, torch.float64), dense(wanted, torch.float64)) < 2e-3
    _, again = norm(x.clone(), scale=SCALE, eps=EPS, fp8=True)
    assert torch.equal(found.values.float(), again.values.float())


@shapes
@skips
def test_entry_and_its_gradients(
    skip: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAUNCH, "backward", FEW_PROGRAMS)
    seed = len(shape) + shape[1]
    check_twins(entry, entry_twin, entry_inputs(skip, shape, seed), fp32=VECTORS, seed=seed)


@pytest.mark.parametrize(
    ("shape", "gate", "skip"),
    [((1, 1, 64), (8, 12), False), ((1, 6, 320), (3, 5), True), ((2, 37, 16), (1, 16), True)],
    ids=["8 heads", "3 heads, two chunks", "1 head, whole rows"],
)
def test_entry_with_gate_and_its_gradients(
    shape: tuple[int, ...], gate: tuple[int, int], skip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("backward", "backward with skip"):
        monkeypatch.setitem(LAUNCH, name, FEW_PROGRAMS)
    given = entry_inputs(skip, shape, shape[1], gate)
    check_twins(entry, entry_twin, given, fp32=VECTORS, seed=shape[1])


def test_entry_of_a_lane_writes_no_mixed_stream() -> None:
    given = cast(entry_inputs(True, (2, 3, 32), gate=(3, 5)), torch.float32)
    found = results(lambda **g: (None, *entry(**g, normed_only=True)[1:]), given, 1)
    plain = results(lambda **g: (None, *entry(**g)[1:]), given, 1)
    assert entry(**given, normed_only=True)[0] is None
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize("used", [(4,), (1, 2)], ids=str)
def test_gate_where_other_outputs_are_unused(used: tuple[int, ...]) -> None:
    given = entry_inputs(True, (2, 3, 32), gate=(3, 5))
    found = results(entry, cast(given, torch.float32), 1, used)
    exact = results(entry_twin, cast(given, torch.float64), 1, used)
    for name, wanted in exact.items():
        torch.testing.assert_close(found[name].double(), wanted.double(), rtol=1e-5, atol=1e-5)


@shapes
@pytest.mark.parametrize("used", [None, (0,), (1,)], ids=["both", "x", "normed"])
def test_middle_and_its_gradients(shape: tuple[int, ...], used: tuple[int, ...] | None) -> None:
    check_twins(middle, middle_twin, random_tensors(shape[1], x=shape), seed=2, used=used)


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1), (0, 1, 3), (1, 2), (2,)], ids=str)
@skips
def test_entry_where_outputs_are_unused(skip: bool, used: tuple[int, ...]) -> None:
    inputs = entry_inputs(skip, (2, 3, 32))
    found = results(entry, cast(inputs, torch.float32), 1, used)
    exact = results(entry_twin, cast(inputs, torch.float64), 1, used)
    assert exact.keys() <= found.keys()
    for name, value in found.items():
        # What the used outputs do not depend on may get a zero gradient for none.
        wanted = exact.get(name, torch.zeros_like(value))
        torch.testing.assert_close(value.double(), wanted.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("used", [(0, 1), None], ids=["", "and hands it on"])
def test_the_first_layer_mixes_a_tensor_with_itself(used: tuple[int, ...] | None) -> None:
    check_twins(
        lambda x, mix: entry(stream=x, x0=x, mix=mix),
        lambda x, mix: entry_twin(stream=x, x0=x, mix=mix),
        random_tensors(5, x=(3, 5, 48), mix=(2, 48)),
        fp32=VECTORS,
        used=used,
    )


def test_inputs_keep_their_values() -> None:
    given: dict[str, Any] = cast(entry_inputs(True, (2, 3, 32)), torch.float32)
    before = {name: tensor.clone() for name, tensor in given.items()}
    _, _, stream, x0, _ = mix_norm(scale=SCALE, eps=EPS, **given)
    x, _ = norm(given["skip"], scale=SCALE, eps=EPS)
    assert x is given["skip"]
    assert torch.equal(stream, given["stream"]) and torch.equal(x0, given["x0"])
    assert all(torch.equal(given[name], before[name]) for name in given)


def test_a_chain_of_layers_that_add_in_place() -> None:
    """As in the model: x0 and a kept stream are handed on, branches are added to what is mixed."""

    def chain(enter: Any, between: Any, add: Any, x: Tensor, mix: Tensor, skip_weight: Tensor):
        stream, x0, kept = x, x, None
        for layer in range(3):
            skips = {"skip": kept, "skip_weight": skip_weight} if layer == 2 else {}
            mixed, normed, entered, x0, _ = enter(
                stream, x0, mix[layer], scale=SCALE, eps=EPS, **skips
            )
            kept = entered if layer == 1 else kept
            stream, normed = between(add(mixed, normed.sin()), scale=SCALE, eps=EPS)
            stream = add(stream, normed.cos())
        return between(stream, scale=1.0, eps=EPS)

    check_twins(
        lambda **given: chain(mix_norm, norm, Tensor.add_, **given),
        lambda **given: chain(mix_norm_reference, norm_reference, torch.add, **given),
        random_tensors(6, x=(2, 5, 48), mix=(3, 2, 48), skip_weight=(48,)),
        fp32=VECTORS,
    )


def test_x_as_it_was_given_counts_as_the_x_that_is_handed_on() -> None:
    def twice(x: Tensor) -> list[Tensor]:
        x = x * 2
        first, normed = norm(x, scale=SCALE, eps=EPS)
        return [x * first, normed * x]

    def twin(x: Tensor) -> list[Tensor]:
        first, normed = norm_reference(x * 2, scale=SCALE, eps=EPS)
        return [first * first, normed * first]

    check_twins(twice, twin, random_tensors(7, x=(2, 5, 48)))


def test_a_stream_that_is_read_again_backward_may_not_be_added_to() -> None:
    given: dict[str, Any] = cast(entry_inputs(False, (1, 3, 16)), torch.float32)
    stream = given.pop("stream").requires_grad_().clone()
    mixed, *_ = mix_norm(stream, scale=SCALE, eps=EPS, **given)
    stream.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        mixed.sum().backward()


def test_strided_inputs_and_gradients() -> None:
    def transposed(operation: Any) -> Any:
        return lambda stream, x0, **rest: [
            output.transpose(0, 1)
            for output in operation(stream=stream.transpose(0, 1), x0=x0.transpose(0, 1), **rest)[
                :4
            ]
        ]

    inputs = entry_inputs(False, (3, 5, 48))
    check_twins(transposed(entry), transposed(entry_twin), inputs, fp32=VECTORS)
    check_twins(
        lambda x: [output.transpose(0, 1) for output in middle(x.transpose(0, 1))],
        lambda x: [output.transpose(0, 1) for output in middle_twin(x.transpose(0, 1))],
        {"x": inputs["stream"]},
    )


def test_same_inputs_same_bits() -> None:
    given = cast(entry_inputs(True, (2, 37, 32)), torch.float32)
    first, second = (results(entry, given, 1) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
@skips
@pytest.mark.parametrize("gate", [None, (8, 12), (3, 5)], ids=["", "8 heads", "3 heads"])
def test_entry_in_bf16_is_as_exact_as_pytorchs(gate: tuple[int, int] | None, skip: bool) -> None:
    for seed in range(3):
        given = entry_inputs(skip, (3, 1001, 512), seed, gate)
        check_twins(entry, entry_twin, given, dtype=torch.bfloat16, fp32=VECTORS, seed=seed)


@pytest.mark.gpu
@pytest.mark.parametrize("used", [None, (1,)], ids=["both", "normed"])
def test_middle_in_bf16_is_as_exact_as_pytorchs(used: tuple[int, ...] | None) -> None:
    for seed in range(3):
        given = random_tensors(seed, x=(3, 1001, 512))
        check_twins(middle, middle_twin, given, dtype=torch.bfloat16, seed=seed, used=used)


@pytest.mark.gpu
def test_bf16_at_the_real_size() -> None:
    assert DEVICE == "cuda"
    given = entry_inputs(True, (48, 2048, 512), gate=(8, 12))
    check_twins(entry, entry_twin, given, dtype=torch.bfloat16, fp32=VECTORS)
    check_twins(middle, middle_twin, {"x": given["stream"]}, dtype=torch.bfloat16)
