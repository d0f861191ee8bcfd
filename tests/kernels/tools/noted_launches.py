"""What ``kernels.common.compiling`` does with launches, told as JSON by a process that can compile.

Run as ``python -m tests.kernels.tools.noted_launches``. Where there is no GPU, its driver stands in
for CUDA's: kernels are compiled for sm_90, and what is launched is written down.
"""

import json
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs

from kernels.common import compiling
from tests.kernels.tools.ahead_of_time import HOPPER


class Driver:
    """Of Triton's, what a launch asks for."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.utils = self

    def get_current_target(self) -> Any:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *_: self.launched.append(source.fn.__name__)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024}

    def load_binary(self, *_: Any) -> tuple[int, ...]:
        return 1, 1, 32, 0, 1024


@triton.jit
def double(x, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    tl.store(x + places, 2 * tl.load(x + places))


@triton.jit
def triple(x, factor: tl.constexpr):
    tl.store(x, factor * tl.load(x))


@triton.jit
def broken(x):
    tl.store(x, tl.load(x), mask=tl.arange(0, 3))


def main() -> None:
    driver, compiled = Driver(), []
    triton.runtime.driver.set_active(driver)  # pyright: ignore[reportArgumentType]
    torch.cuda.current_device, torch.cuda.set_device = (lambda: 0), (lambda device: None)
    knobs.runtime.jit_post_compile_hook = lambda *, fn, **_: compiled.append(fn.name)
    x = torch.ones(64)

    launches: list[tuple[Any, dict[str, Any]]]
    launches = [(double, {"BLOCK": 32}), (double, {"BLOCK": 64}), (triple, {"factor": 3.0})]

    def work() -> None:
        for kernel, constants in launches:
            kernel[(1,)](x, **constants)

    with compiling.side_by_side():
        work()
        work()
        broken[(1,)](x)
        noted = list(compiled), list(driver.launched)
    after = sorted(name.rpartition(".")[2] for name in compiled)
    work()
    try:
        broken[(1,)](x)
        error = ""
    except triton.CompilationError as raised:
        error = type(raised).__name__
    found = {"noted": noted, "after": after, "later": len(compiled) - len(after)}
    print(json.dumps(found | {"launched": driver.launched, "error": error}))


if __name__ == "__main__":
    main()
