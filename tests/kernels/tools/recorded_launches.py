"""Print as JSON what ``kernels.common.compiling`` does with launches, in a process that compiles.

Run as ``python -m tests.kernels.tools.recorded_launches``. A driver of its own stands in for
CUDA's, so that no GPU is needed: kernels are compiled for sm_90, and launches are only listed.
"""

import json
import threading
import time
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.runtime.cache import triton_key

from kernels.common import compiling
from tests.kernels.tools.ahead_of_time import HOPPER, Variant, kernel_source


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


class Inputs(NamedTuple):
    x: Any
    bias: Any
    length: Any
    BLOCK: Any


@triton.jit
def grouped(inputs, out):
    places = tl.arange(0, inputs.BLOCK)
    x = tl.load(inputs.x + places, mask=places < inputs.length)
    if inputs.bias is not None:
        x += tl.load(inputs.bias)
    tl.store(out + places, x)


# The second of its launches.
GROUPED = Variant(
    "grouped",
    grouped,
    {"inputs": Inputs("*fp32", "*fp32", "i32", tl.constexpr(64)), "out": "*fp32"},
    {},
    unaligned=frozenset({"inputs.length"}),
)
ARGUMENTS = ("signature", "constants", "configs")


def specialisation(signature: Any, constants: Any, configs: Any) -> str:
    """All that a compiled kernel depends on, but for its options."""
    attributes = {path: value for path, value in configs[0].items() if value}
    return str((signature, sorted(constants.items()), sorted(attributes.items())))


@triton.jit
def broken(x):
    tl.store(x, tl.load(x), mask=tl.arange(0, 3))


def overlapping() -> None:
    """Enter the context in a thread, then in this one, which ends after the other has."""
    inside = threading.Event()

    def first() -> None:
        with compiling.compile_in_parallel():
            inside.set()
            time.sleep(0.2)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with compiling.compile_in_parallel():
        thread.join()


def main() -> None:
    driver, compiled, specialised = Driver(), [], []
    triton.runtime.driver.set_active(driver)  # pyright: ignore[reportArgumentType]
    torch.cuda.current_device, torch.cuda.set_device = (lambda: 0), (lambda device: None)

    def note(*, fn: Any, compile: Any, **_: object) -> None:
        compiled.append(fn.name)
        if fn.jit_function is grouped:
            specialised.append(specialisation(*(compile[name] for name in ARGUMENTS)))

    knobs.runtime.jit_post_compile_hook = note
    x = torch.ones(64)

    block = tl.constexpr(64)
    launches: list[tuple[Any, Any, dict[str, Any]]] = [
        (double, x, {"BLOCK": 32}),
        (double, x, {"BLOCK": 64}),
        (triple, x, {"factor": 3.0}),
        (grouped, Inputs(x, None, 48, block), {"out": x}),
        (grouped, Inputs(x, x, 49, block), {"out": x}),
    ]

    def work() -> None:
        for kernel, first, others in launches:
            kernel[(1,)](first, **others)

    compiling.threads = lambda: 4
    phases = []
    with compiling.compile_in_parallel(phases.append):
        work()
        work()
        broken[(1,)](x)
        recorded = list(compiled), list(driver.launched), list(phases)
    after = sorted(name.rpartition(".")[2] for name in compiled)
    overlapping()
    work()
    with compiling.compile_in_parallel():
        work()
    try:
        broken[(1,)](x)
        error = ""
    except triton.CompilationError as raised:
        error = type(raised).__name__
    source = kernel_source(GROUPED)
    named = specialisation(source.signature, source.constants, [source.attrs])
    found = {
        "recorded": recorded,
        "named as launched": named in specialised,
        "after": after,
        "phases": phases,
        "later": len(compiled) - len(after),
        "hashed": triton_key.cache_info().misses,
    }
    print(json.dumps(found | {"launched": driver.launched, "error": error}))


if __name__ == "__main__":
    main()
