"""The MLP's two products in bf16 on a GPU, by either pair of kernels, against fp64."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels.common import stationary
from kernels.mlp import products as mlp_products
from kernels.mlp import products_hopper as mlp_stationary
from tests.kernels.tools.compare import random_tensors, relative_error

SLOPE = 0.75
# N, C and M: a stationary tile has 128 rows and 128 columns, a strip any multiple of 64 to 512.
SHAPES = {
    "real size": (98_304, 512, 1536),
    "rows end inside a tile": (40_007, 512, 1536),
    "one row": (1, 512, 1536),
    "one consumer has no tile": (130, 512, 16_896),
    "one strip, one step": (20_000, 64, 128),
    "more strips than multiprocessors": (300, 192, 19_200),
    "fewer steps than buffers": (3_000, 320, 640),
}


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill what is allocated with NaN, so that an output left out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(seed: int, rows: int, width: int, hidden: int) -> dict[str, Tensor]:
    """bf16 on the GPU: standard normal x and dy, weights that keep their scale."""
    given = random_tensors(
        seed, x=(rows, width), up=(hidden, width), down=(width, hidden), dy=(rows, width)
    )
    given["up"] /= width**0.5
    given["down"] /= width**0.5
    return {name: tensor.detach().cuda().bfloat16() for name, tensor in given.items()}


def results(module: ModuleType, given: dict[str, Tensor], slope: float) -> dict[str, Tensor]:
    """a and dh, by the module's own kernels."""
    activated, signs = module.activated_product(given["x"], given["up"], slope)
    dh = module.activation_gradient(given["dy"], given["down"], activated, signs, slope)
    return {"a": activated, "dh": dh}


def by_torch(given: dict[str, Tensor], slope: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """a and dh, each step in ``dtype``."""
    x, up, down, dy = (given[name].to(dtype) for name in ("x", "up", "down", "dy"))
    h = x @ up.T
    leaky = torch.where(h < 0, slope * h, h)
    dh = (dy @ down) * 2 * torch.where(h < 0, slope * leaky, leaky)
    return {"a": leaky * leaky, "dh": dh}


def check(module: ModuleType, given: dict[str, Tensor], slope: float) -> None:
    ours = results(module, given, slope)
    exact = by_torch(given, slope, torch.float64)
    theirs = by_torch(given, slope, torch.bfloat16)
    for name in exact:
        bar = 1.5 * relative_error(theirs[name], exact[name])
        assert relative_error(ours[name], exact[name]) <= bar, name


def test_only_hopper_and_bf16_have_stationary_kernels() -> None:
    assert not stationary.fits(torch.zeros(4, 512, dtype=torch.bfloat16), 1536)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("seed", [1, 2])
def test_stationary_is_as_exact_as_pytorch(seed: int, shape: tuple[int, int, int]) -> None:
    given = inputs(seed, *shape)
    assert stationary.fits(given["x"], shape[2])
    check(mlp_stationary, given, SLOPE)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(98_304, 512, 1536), (333, 72, 264)])
def test_tiled_is_as_exact_as_pytorch(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(stationary, "fits", lambda x, hidden: False)
    check(mlp_products, inputs(3, *shape), SLOPE)


@pytest.mark.gpu
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 2.0], ids=lambda slope: f"slope {slope}")
def test_slope(slope: float) -> None:
    check(mlp_stationary, inputs(4, 1_000, 128, 256), slope)


@pytest.mark.gpu
def test_each_element_has_its_own_place_and_sign() -> None:
    """A negative state in each row, none in the same column as the row before."""
    rows, hidden = 512, 256
    h = torch.arange(1, hidden + 1, device="cuda") / 16 + torch.zeros(rows, 1, device="cuda")
    h = h.bfloat16()
    row = torch.arange(rows, device="cuda")
    h[row, row * 37 % hidden] *= -1
    eye = torch.eye(hidden, device="cuda", dtype=torch.bfloat16)
    activated, signs = mlp_stationary.activated_product(h, eye, 0.5)
    leaky = torch.where(h < 0, h / 2, h).float()
    assert torch.equal(activated, (leaky * leaky).bfloat16())
    dh = mlp_stationary.activation_gradient(torch.ones_like(h), eye, activated, signs, 0.5)
    exact = 2 * activated.float().sqrt() * torch.where(h < 0, -0.5, 1.0)
    torch.testing.assert_close(dh.float(), exact, rtol=2**-8, atol=0)


@pytest.mark.gpu
def test_same_inputs_same_bits() -> None:
    given = inputs(5, 50_001, 512, 1536)
    first, *others = (results(mlp_stationary, given, SLOPE) for _ in range(10))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
