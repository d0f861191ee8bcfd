"""The MLP in fp8: its kernels against the reference, which rounds as they do."""

import pytest
import torch
from torch import Tensor

from kernels.common import stationary
from kernels.mlp import autograd as kernel
from kernels.mlp import bound, fp8, reference, up_fp8_hopper
from kernels.operand import Operand, dense, rounded, sourced
from tests.kernels.tools.compare import FP32, random_tensors, relative_error
from tests.kernels.tools.twins import DEVICE, poisoned

# x's shape and M. A tile has 32 rows and 128 columns in fp32, 32 terms a step.
SHAPES = {
    "whole tiles": ((2, 32, 64), 256),
    "one token": ((1, 1, 32), 128),
    "rows and columns end inside a tile": ((3, 23, 48), 144),
    "narrower than a word of signs": ((1, 9, 16), 16),
}
REAL = {
    "real size": (98_304, 512, 2048),
    "rows end inside a tile": (40_007, 512, 1536),
    "one row": (1, 512, 1536),
    "one consumer has no tile": (130, 512, 16_896),
    "one strip, one step": (20_000, 128, 128),
    "more strips than multiprocessors": (300, 256, 19_200),
    "fewer steps than buffers": (3_000, 384, 640),
}
# A GPU adds products of e4m3 in about 13 bits, and near a tie that decides how a is rounded.
TOLERANCE = FP32 if DEVICE == "cpu" else 1e-2
NAMES = ("x", "up", "down", "stream")


def inputs(seed: int, shape: tuple[int, ...], hidden: int) -> dict[str, Tensor]:
    """Standard normal x; weights that keep its scale; rows of up of different sizes."""
    width = shape[-1]
    given = random_tensors(
        seed, x=shape, up=(hidden, width), down=(width, hidden), stream=shape, dy=shape
    )
    sizes = torch.linspace(0.3, 1.5, hidden, dtype=torch.float64)[:, None]
    given["up"] *= sizes / width**0.5
    given["down"] /= hidden**0.5
    return {name: tensor.to(DEVICE) for name, tensor in given.items()}


def run(
    operation, given: dict[str, Tensor], dtype: torch.dtype, slope: float, in_fp8: bool = True
) -> dict[str, Tensor]:
    """Output and all gradients of the operation, all operands rounded from ``given``."""
    leaves = {name: given[name].detach().to(dtype).requires_grad_() for name in NAMES}
    operands = [
        rounded(given[name], leaves[name]) if in_fp8 else leaves[name] for name in NAMES[:3]
    ]
    y = operation(*operands, slope, leaves["stream"] * 1.0)
    gradients = torch.autograd.grad(y, list(leaves.values()), given["dy"].to(dtype))
    return {"y": y.detach()} | {f"d{name}": g for name, g in zip(NAMES, gradients, strict=True)}


@pytest.mark.parametrize(("shape", "hidden"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(("seed", "slope"), [(1, 0.3), (2, 1.5)], ids=["", "steep"])
def test_agrees_with_the_reference(
    shape: tuple[int, ...], hidden: int, seed: int, slope: float
) -> None:
    given = inputs(seed, shape, hidden)
    with poisoned():
        ours = run(kernel.mlp, given, torch.float32, slope)
    exact = run(reference.mlp, given, torch.float64, slope)
    native = run(reference.mlp, given, torch.float64, slope, in_fp8=False)
    assert relative_error(native["y"], exact["y"]) > 1e-3
    for name in exact:
        assert relative_error(ours[name], exact[name]) < TOLERANCE, name


def test_without_a_stream_and_of_one_gradient_alone() -> None:
    given = inputs(3, (1, 9, 32), 144)
    x = given["x"].float().requires_grad_()
    up, down = (rounded(given[name], given[name].float()) for name in ("up", "down"))
    y, exact = (op(rounded(x, x), up, down, 0.3) for op in (kernel.mlp, reference.mlp))
    assert relative_error(y, exact) < TOLERANCE
    ours, theirs = (torch.autograd.grad(each, x, given["dy"].float())[0] for each in (y, exact))
    assert relative_error(ours, theirs) < TOLERANCE


def test_signs_go_to_the_kernel_that_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A width may be for stationary kernels in bf16, but not in fp8; they pack signs otherwise."""
    given = inputs(7, (1, 9, 32), 128)
    monkeypatch.setattr(stationary, "fits", lambda x, hidden: x.dtype != torch.float8_e4m3fn)
    ours, exact = (
        run(operation, given, dtype, 0.3)
        for operation, dtype in ((kernel.mlp, torch.float32), (reference.mlp, torch.float64))
    )
    assert relative_error(ours["dx"], exact["dx"]) < TOLERANCE


def test_no_activation_overflows() -> None:
    """Rows of x in the direction of rows of up: the bound is met, and all the rest is zero."""
    up = torch.zeros(256, 64, device=DEVICE)
    up[7], up[9, 0] = 0.123, -3.0
    x = torch.cat((up[7:8], up[9:10], torch.zeros(1, 64, device=DEVICE)))
    found, _ = fp8.activated_product(rounded(x, x), rounded(up, up), 1.0, torch.float32)
    values = found.values.float()
    assert bool(values.isfinite().all()) and 448 / 1.4 < float(values.max()) <= 448
    assert not values[2].any() and not sourced(found)[2].any()
    assert relative_error(dense(found, torch.float32), (x @ up.T).square()) < 0.07


def test_weights_of_zero_make_zero() -> None:
    x, zero = torch.ones(3, 32, device=DEVICE), torch.zeros(128, 32, device=DEVICE)
    given = [rounded(t, t) for t in (x, zero, zero.T.contiguous())]
    assert not kernel.mlp(*given, slope=0.3, stream=torch.zeros_like(x)).any()


def test_all_operands_or_none_have_scales() -> None:
    x, weight = torch.ones(3, 32), torch.ones(32, 32)
    with pytest.raises(ValueError, match="takes both operands of an fp8 product in fp8"):
        kernel.mlp(x, rounded(weight, weight), weight, 0.3)


def activated(module, given: dict[str, Tensor], slope: float) -> tuple[Operand, Tensor]:
    """What a module's own ``launch`` makes of bf16 inputs."""
    x, up = (rounded(given[name], given[name]) for name in ("x", "up"))
    assert x.scale is not None and up.scale is not None
    source = given["x"].new_empty(len(given["x"]), len(given["up"]))
    values = torch.empty_like(source, dtype=torch.float8_e4m3fn)
    scale = torch.empty_like(source[:, 0], dtype=torch.float32)
    scales = fp8.Scales(x.scale, up.scale, scale, bound(slope))
    signs = module.launch(x.values, up.values, scales, source, values, slope)
    return Operand(values, scale, source), signs


@pytest.mark.gpu
@pytest.mark.parametrize("shape", REAL.values(), ids=REAL.keys())
@pytest.mark.parametrize("module", [up_fp8_hopper, fp8], ids=["stationary", "tiled"])
def test_activation_and_signs(module, shape: tuple[int, int, int]) -> None:
    """Near what the exact sums give; a sum of 13 bits rounds some to the next number of e4m3, 0.07
    of its size, where rounding alone is off by 0.026. Same bits again."""
    rows, width, hidden = shape
    given = {n: t.bfloat16() for n, t in inputs(4, (rows, width), hidden).items()}
    assert stationary.fits(rounded(given["x"], given["x"]).values, hidden)
    with poisoned():
        found, signs = activated(module, given, 0.3)
    x, up = (rounded(given[name], given[name]) for name in ("x", "up"))
    h = dense(x, torch.float64) @ dense(up, torch.float64).T
    a = torch.where(h < 0, 0.3 * h, h).square()
    assert relative_error(sourced(found), a) < 6e-3
    assert x.scale is not None and up.scale is not None
    wanted = bound(0.3) * (x.scale * up.scale.amax()).square()
    torch.testing.assert_close(found.scale, wanted, rtol=1e-5, atol=0)
    near = (a / wanted.double()[:, None]).float().to(torch.float8_e4m3fn).double()
    assert relative_error(found.values.double(), near) < 1.5e-2
    again, signs_again = activated(module, given, 0.3)
    assert torch.equal(found.values.view(torch.uint8), again.values.view(torch.uint8))
    assert torch.equal(sourced(found), sourced(again)) and torch.equal(signs, signs_again)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "hidden"),
    [
        ((48, 2048, 512), 2048),
        ((3, 333, 512), 1536),
        ((1, 1, 128), 128),
        ((2, 65, 80), 272),
        ((2, 65, 448), 896),
    ],
    ids=["real size", "rows end inside a tile", "one token", "tiled", "tiled in fp8 only"],
)
def test_bf16_and_fp8_are_as_exact_as_the_reference(shape: tuple[int, ...], hidden: int) -> None:
    """y within 1 % of the product of the same roundings, gradients as near as PyTorch's bf16."""
    given = {n: t.bfloat16() for n, t in inputs(5, shape, hidden).items()}
    exact = run(reference.mlp, given, torch.float64, 0.3)
    theirs = run(reference.mlp, given, torch.bfloat16, 0.3)
    ours = run(kernel.mlp, given, torch.bfloat16, 0.3)
    for name in exact:
        bar = max(1e-2 if name == "y" else 4e-3, 1.5 * relative_error(theirs[name], exact[name]))
        assert relative_error(ours[name], exact[name]) <= bar, name


@pytest.mark.gpu
def test_same_inputs_same_bits() -> None:
    given = {n: t.bfloat16() for n, t in inputs(6, (1, 50_001, 512), 2048).items()}
    first, *others = (run(kernel.mlp, given, torch.bfloat16, 0.3) for _ in range(5))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
