"""Products in fp8: against fp64 products of the same rounded operands."""

import pytest
import torch
from torch import Tensor

from kernels.linear import fp8
from kernels.operand import Operand, dense, rounded
from tests.kernels.tools.compare import FP32, random_tensors, relative_error
from tests.kernels.tools.twins import DEVICE, poisoned

# x's shape and the weight's rows. A tile has 32 rows and 64 columns in fp32, 32 terms a step.
SHAPES = {
    "whole tiles": ((2, 32, 64), 128),
    "one token": ((1, 1, 32), 64),
    "rows and columns end inside a tile": ((3, 23, 48), 80),
    "half a tile of columns": ((1, 40, 16), 16),
}
TOLERANCE = FP32 if DEVICE == "cpu" else 1e-3  # a GPU adds products of e4m3 in about 13 bits
REAL = {
    "down": ((48, 2048, 2048), 512),
    "output": ((48, 2048, 512), 512),
    "rows end inside a tile": ((1, 40_007, 1536), 512),
    "columns end inside a tile": ((3, 333, 208), 304),
    "one row": ((1, 1, 512), 512),
}


def operands(seed: int, shape: tuple[int, ...], columns: int) -> tuple[Operand, Operand]:
    """Rows of x of very different sizes."""
    given = random_tensors(seed, x=shape, weight=(columns, shape[-1]), size=shape[:-1])
    x = given["x"] * given["size"].exp()[..., None]
    weight = given["weight"].to(DEVICE)
    return rounded(x.to(DEVICE), x.to(DEVICE)), rounded(weight, weight)


def exact(x: Operand, weight: Operand) -> Tensor:
    return dense(x, torch.float64) @ dense(weight, torch.float64).T


@pytest.mark.parametrize(("shape", "columns"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("seed", [1, 2])
def test_a_product(seed: int, shape: tuple[int, ...], columns: int) -> None:
    x, weight = operands(seed, shape, columns)
    with poisoned():
        y = fp8.product(x, weight, torch.float32)
    assert y.dtype == torch.float32
    assert relative_error(y, exact(x, weight)) < TOLERANCE


@pytest.mark.parametrize(("shape", "columns"), SHAPES.values(), ids=SHAPES.keys())
def test_onto_a_stream(shape: tuple[int, ...], columns: int) -> None:
    """In the stream's own memory."""
    x, weight = operands(3, shape, columns)
    before = random_tensors(4, stream=(*shape[:-1], columns))["stream"].float().to(DEVICE)
    stream = before.clone()
    assert fp8.product(x, weight, torch.float32, stream) is stream
    assert relative_error(stream, before + exact(x, weight)) < TOLERANCE


def test_each_element_has_its_own_place() -> None:
    """Products of one term: exact, and all different."""
    x, weight = (
        Operand(t.to(torch.float8_e4m3fn), torch.ones(len(t), device=DEVICE), t)
        for t in (
            torch.eye(96, device=DEVICE),
            2.0 ** (torch.arange(80 * 96) % 13 - 6).view(80, 96),
        )
    )
    weight = weight._replace(values=weight.values.to(DEVICE))
    assert torch.equal(fp8.product(x, weight, torch.float32), weight.values.float().T)


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "columns"), REAL.values(), ids=REAL.keys())
@pytest.mark.parametrize("add", [False, True], ids=["alone", "onto a stream"])
def test_real_sizes(shape: tuple[int, ...], columns: int, add: bool) -> None:
    """Tensor cores cut each of 64 sums to 13 bits or more: up to 2^-8 of what is summed."""
    x, weight = operands(5, shape, columns)
    x = x._replace(source=None)
    wanted = exact(x._replace(source=x.values.float()), weight)
    stream = torch.randn_like(wanted).bfloat16() if add else None
    if stream is not None:
        wanted += stream
    first = None if stream is None else stream.clone()
    with poisoned():
        y = fp8.product(x, weight, torch.bfloat16, stream)
    assert relative_error(y, wanted) < 1e-2
    again = fp8.product(x, weight, torch.bfloat16, first)
    assert torch.equal(y, again)
