"""The lanes' kernels against the reference, interpreted in fp32 or on a GPU in bf16."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels.lanes import reference
from kernels.lanes.autograd import LAUNCH, lanes
from tests.kernels.tools.compare import random_tensors
from tests.kernels.tools.twins import cast, check_twins, results

NAMES = ("first", "second", "attention", "mlp")
FACTORS = ("keep", "mix", "skip_weight", "first_weight")
SHAPES = {
    "one row": (1, 1, 64),
    "rows no multiple of a tile, width no power of two": (3, 5, 48),
    "width of two chunks and a masked rest": (1, 6, 320),
    "more rows than programs of one turn": (2, LAUNCH["backward"].rows * 9 + 1, 16),
}
# So few that each runs several turns of its loop at sizes that the interpreter can bear.
FEW_PROGRAMS = replace(LAUNCH["backward"], programs=3)
REAL = (48, 2048, 512)

skips = pytest.mark.parametrize("skip", [False, True], ids=["", "skip"])


def inputs(
    shape: tuple[int, ...], skip: bool, seed: int, *, gate: bool = False
) -> dict[str, Tensor]:
    of: dict[str, tuple[int, ...]] = dict.fromkeys(NAMES, shape)
    of |= {"keep": (2,), "mix": (2, 2)}
    if skip:
        of |= {"skip": shape, "skip_weight": (shape[-1],)}
    if gate:
        of["first_weight"] = (shape[-1],)
    return random_tensors(seed, **of)


@skips
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_lanes_and_their_gradients(
    shape: tuple[int, ...], skip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAUNCH, "backward", FEW_PROGRAMS)
    check_twins(lanes, reference.lanes, inputs(shape, skip, shape[1]), fp32=FACTORS)


@pytest.mark.parametrize(("shape", "skip"), [((3, 5, 48), True), ((1, 6, 320), False)])
def test_skip_gate_and_its_gradients(
    shape: tuple[int, ...], skip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAUNCH, "backward with gate", FEW_PROGRAMS)
    given = inputs(shape, skip, shape[1], gate=True)
    check_twins(lanes, reference.lanes, given, fp32=FACTORS)


def test_inputs_that_lie_otherwise_and_one_tensor_as_both_lanes() -> None:
    given = {name: t.float() for name, t in inputs((3, 4, 32), False, 4).items()}
    given = cast(given, torch.float32)
    plain = lanes(**given)
    given["first"] = given["first"].transpose(0, 1).contiguous().transpose(0, 1)
    assert all(map(torch.equal, lanes(**given), plain))
    given["second"] = given["first"]
    expected = reference.lanes(**given)
    assert all(torch.allclose(a, b) for a, b in zip(lanes(**given), expected, strict=True))


@pytest.mark.gpu
@skips
@pytest.mark.parametrize("gate", [False, True], ids=["", "gate"])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shape", [REAL, (35, 999, 512), (2, 77, 256), (1, 1, 512)])
def test_bf16(shape: tuple[int, ...], seed: int, gate: bool, skip: bool) -> None:
    check_twins(
        lanes,
        reference.lanes,
        inputs(shape, skip, seed, gate=gate),
        dtype=torch.bfloat16,
        fp32=FACTORS,
        seed=seed,
    )


@pytest.mark.gpu
def test_same_inputs_same_bits() -> None:
    given = cast(inputs((35, 999, 512), True, 5), torch.bfloat16, FACTORS)
    one, other = (results(lanes, given, 5) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
