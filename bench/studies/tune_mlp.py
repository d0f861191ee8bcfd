"""Time the MLP's two products by each kernel and configuration.

Prints microseconds, PyTorch's for the same shape, and the error against fp64 over that
of PyTorch in bf16: the stationary kernels by buffers in the ring, the tiled ones by tile.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import torch
import triton
from torch import Tensor

from bench.harness.record import need_gpu
from bench.harness.sizes import MLP_WIDTH, TOKENS, WIDTH, random
from kernels.common import stationary as strips
from kernels.common.launch import Launch
from kernels.mlp import products as mlp_products
from kernels.mlp import products_hopper as mlp_stationary

SLOPE = 0.75
STAGES = (4, 5, 6)
# Without spills; a tile of 64 rows or of 128 columns leaves space for a second block.
TILES = (
    Launch(128, 256, 64, warps=8, stages=3),
    Launch(128, 256, 64, warps=8, stages=4),
    Launch(128, 256, 32, warps=8, stages=4),
    Launch(64, 256, 64, warps=4, stages=2),
    Launch(128, 128, 64, warps=8, stages=2),
)
Call = Callable[[], Tensor]
Result = TypeVar("Result")


def stationary(call: Callable[[], Result], stages: int) -> Result:
    with patch.object(mlp_stationary, "STAGES", stages):
        return call()


def tiled(call: Callable[[], Result], tile: Launch) -> Result:
    with (
        patch.object(mlp_products, "LAUNCH", {2: tile}),
        patch.object(strips, "fits", lambda x, hidden: False),
    ):
        return call()


def ways(given: tuple[Tensor, ...], gradient: bool) -> dict[str, Call]:
    """Return calls by name: of a, or of dh from what the same kernels computed before."""
    x, up, down, dy = given

    def forward() -> tuple[Tensor, Tensor]:
        return mlp_products.activated_product(x, up, SLOPE)

    def call_of(run: Callable[[Callable[[], Any]], Any]) -> Call:
        if not gradient:
            return lambda: run(lambda: forward()[0])
        made: tuple[Tensor, Tensor] = run(forward)
        return lambda: run(lambda: mlp_products.activation_gradient(dy, down, *made, SLOPE))

    runs = {
        f"stationary, {stages} buffers": partial(stationary, stages=stages) for stages in STAGES
    }
    runs |= {str(tile): partial(tiled, tile=tile) for tile in TILES}
    return {name: call_of(run) for name, run in runs.items()}


def by_torch(given: tuple[Tensor, ...], gradient: bool, dtype: torch.dtype) -> Tensor:
    x, up, down, dy = (tensor.to(dtype) for tensor in given)
    h = x @ up.T
    leaky = torch.where(h < 0, SLOPE * h, h)
    if not gradient:
        return leaky * leaky
    return (dy @ down) * 2 * torch.where(h < 0, SLOPE * leaky, leaky)


def relative_error(given: Tensor, exact: Tensor) -> float:
    return float((given.double() - exact).norm() / exact.norm())


def microseconds(call: Call) -> float:
    median = triton.testing.do_bench(call, warmup=20, rep=60, return_mode="median")
    assert isinstance(median, float)
    return 1000 * median


def compare(given: tuple[Tensor, ...], gradient: bool) -> None:
    x, up, down, dy = given
    exact = by_torch(given, gradient, torch.float64)
    bar = relative_error(by_torch(given, gradient, torch.bfloat16), exact)
    product = microseconds(lambda: torch.mm(dy, down) if gradient else torch.mm(x, up.T))
    print(f"{'dh' if gradient else 'a'}: torch.mm {product:.0f} us")
    for name, call in ways(given, gradient).items():
        try:
            error = relative_error(call(), exact) / bar
            print(f"  {microseconds(call):5.0f} us  error {error:.2f}  {name}", flush=True)
        except triton.OutOfResources as failure:
            print(f"  {name}: {failure}")


def main() -> None:
    """Time both products."""
    need_gpu()
    x, dy = random(TOKENS, WIDTH), random(TOKENS, WIDTH)
    up = random(MLP_WIDTH, WIDTH, scale=WIDTH**-0.5)
    down = random(WIDTH, MLP_WIDTH, scale=WIDTH**-0.5)
    for gradient in (False, True):
        compare((x, up, down, dy), gradient)
