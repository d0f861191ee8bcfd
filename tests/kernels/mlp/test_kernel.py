"""The MLP's Triton kernels: against the reference in fp32 anywhere, in bf16 on a GPU."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kernels.common.launch import Launch
from kernels.mlp import autograd as kernel
from kernels.mlp import products, reference
from tests.kernels.tools.compare import FP32, random_tensors, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Operation = Callable[[Tensor, Tensor, Tensor, float], Tensor]

# x's shape and M. A tile has 32 rows and 128 columns in fp32, 128 and 256 in bf16.
SHAPES = {
    "whole tiles": ((2, 64, 32), 256),
    "one token": ((1, 1, 32), 128),
    "T=1": ((5, 1, 32), 128),
    "rows end inside a tile": ((3, 23, 32), 128),
    "columns end inside a block of signs, sum inside a tile": ((1, 9, 40), 152),
    "narrower than a word of signs": ((1, 9, 8), 8),
}


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill what is allocated with NaN, so that an output left out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(seed: int, shape: tuple[int, ...], hidden: int) -> dict[str, Tensor]:
    """Standard normal x; weights that keep its scale."""
    width = shape[-1]
    given = random_tensors(seed, x=shape, up=(hidden, width), down=(width, hidden), dy=shape)
    given["up"] /= width**0.5
    given["down"] /= hidden**0.5
    return {name: tensor.to(DEVICE) for name, tensor in given.items()}


def run(
    operation: Operation, given: dict[str, Tensor], dtype: torch.dtype, slope: float
) -> dict[str, Tensor]:
    """Output and all gradients, by name, of the operation in ``dtype``."""
    given = {name: tensor.detach().to(dtype) for name, tensor in given.items()}
    x, up, down = (given[name].requires_grad_() for name in ("x", "up", "down"))
    y = operation(x, up, down, slope)
    gradients = torch.autograd.grad(y, (x, up, down), given["dy"])
    return dict(zip(("y", "dx", "dup", "ddown"), (y.detach(), *gradients), strict=True))


@pytest.mark.parametrize(("shape", "hidden"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("seed", [1, 2])
def test_agrees_with_the_reference(seed: int, shape: tuple[int, ...], hidden: int) -> None:
    given = inputs(seed, shape, hidden)
    ours = run(kernel.mlp, given, torch.float32, 0.75)
    exact = run(reference.mlp, given, torch.float64, 0.75)
    for name in exact:
        assert ours[name].dtype == torch.float32
        assert relative_error(ours[name], exact[name]) < FP32, name


@pytest.mark.parametrize("hidden", [256, 300, 120], ids=["even", "three blocks", "half a tile"])
def test_tiles_of_two_blocks_of_signs(monkeypatch: pytest.MonkeyPatch, hidden: int) -> None:
    """256 columns a tile, as in bf16: the epilogue takes it in halves."""
    monkeypatch.setitem(products.LAUNCH, 4, Launch(32, 256, 16, warps=8, stages=2))
    given = inputs(8, (1, 40, 24), hidden)
    ours = run(kernel.mlp, given, torch.float32, 0.75)
    exact = run(reference.mlp, given, torch.float64, 0.75)
    for name in exact:
        assert relative_error(ours[name], exact[name]) < FP32, name


@pytest.mark.parametrize(("shape", "hidden"), SHAPES.values(), ids=SHAPES.keys())
def test_onto_a_stream(shape: tuple[int, ...], hidden: int) -> None:
    """In the stream's own memory, and the upstream is its gradient."""
    given = inputs(9, shape, hidden)
    exact = run(reference.mlp, given, torch.float64, 0.75)
    given = {name: tensor.float() for name, tensor in given.items()}
    x, up, down = (given[name].requires_grad_() for name in ("x", "up", "down"))
    leaf = random_tensors(10, stream=shape)["stream"].float().to(DEVICE).requires_grad_()
    stream = leaf.clone()
    y = kernel.mlp(x, up, down, 0.75, stream)
    assert y is stream
    assert relative_error(y - leaf, exact["y"]) < FP32
    gradients = torch.autograd.grad(y, (x, up, down, leaf), given["dy"])
    for name, gradient in zip(("dx", "dup", "ddown"), gradients[:3], strict=True):
        assert relative_error(gradient, exact[name]) < FP32, name
    assert torch.equal(gradients[3], given["dy"])


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0], ids=lambda slope: f"slope {slope}")
def test_slope(slope: float) -> None:
    given = inputs(3, (1, 40, 16), 136)
    ours = run(kernel.mlp, given, torch.float32, slope)
    exact = run(reference.mlp, given, torch.float64, slope)
    for name in exact:
        assert relative_error(ours[name], exact[name]) < FP32, name


def test_each_element_gets_its_own_sign() -> None:
    """One negative state at a time: its derivative, and no other, carries the slope."""
    eye = torch.eye(260, device=DEVICE)
    h = 1.0 - 2.0 * eye
    activated, signs = products.activated_product(h, eye, 0.5)
    assert torch.equal(activated, 1.0 - 0.75 * eye)
    dh = products.activation_gradient(torch.ones_like(h), eye, activated, signs, 0.5)
    assert torch.equal(dh, 2.0 - 2.5 * eye)


@pytest.mark.parametrize("wanted", ["x", "up", "down"])
def test_gradient_of_one_input_alone(wanted: str) -> None:
    given = {name: tensor.float() for name, tensor in inputs(4, (1, 9, 16), 136).items()}
    expected = run(kernel.mlp, given, torch.float32, 0.75)["d" + wanted]
    given[wanted] = given[wanted].detach().requires_grad_()
    y = kernel.mlp(given["x"], given["up"], given["down"], 0.75)
    assert torch.equal(torch.autograd.grad(y, given[wanted], given["dy"])[0], expected)


def test_takes_strided_inputs() -> None:
    given = inputs(5, (2, 9, 16), 136)
    expected = run(kernel.mlp, given, torch.float32, 0.75)
    given["x"] = given["x"].transpose(0, 1).contiguous().transpose(0, 1)
    given["up"], given["down"] = given["up"].T.contiguous().T, given["down"].T.contiguous().T
    got = run(kernel.mlp, given, torch.float32, 0.75)
    for name in expected:
        assert relative_error(got[name], expected[name]) < FP32, name


def test_same_inputs_same_bits() -> None:
    given = inputs(6, (1, 70, 16), 136)
    first, second = (run(kernel.mlp, given, torch.float32, 0.75) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "hidden"),
    [((48, 2048, 512), 1536), ((3, 333, 512), 1536), ((1, 1, 64), 8), ((2, 65, 72), 264)],
    ids=["real size", "rows end inside a tile", "one token", "columns end inside a tile"],
)
def test_bf16_is_as_exact_as_pytorch(shape: tuple[int, ...], hidden: int) -> None:
    """Error against fp64 at most 1.5 times that of the reference in bf16."""
    rounded = {name: t.bfloat16() for name, t in inputs(7, shape, hidden).items()}
    exact = run(reference.mlp, rounded, torch.float64, 0.75)
    theirs = run(reference.mlp, rounded, torch.bfloat16, 0.75)
    ours = run(kernel.mlp, rounded, torch.bfloat16, 0.75)
    for name in exact:
        bar = 1.5 * relative_error(theirs[name], exact[name])
        assert relative_error(ours[name], exact[name]) <= bar, name
