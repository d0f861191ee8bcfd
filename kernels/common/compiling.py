"""Compile what a stretch of work needs side by side, before it runs.

    with side_by_side():
        ...  # launches no kernel that is not compiled yet, and notes it instead
    ...      # all are compiled, and loaded on the current device

Triton compiles a kernel when it is first launched, one after the other: half a minute of one core
for a training step. Threads do four of its five parts at once, for MLIR, LLVM, the assembler and
the C compiler need no Python. What the stretch computes is worthless, since kernels did not run.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import torch
from triton import knobs

MOST = 16  # threads; more gain nothing beside the part that is Python's


@contextmanager
def side_by_side() -> Iterator[None]:
    """For launches of any thread; the compiled kernels are kept for this process and on disk."""
    recorded: dict[tuple[Any, str], dict[str, Any]] = {}

    def record(*, fn: Any, compile: Any, **_: object) -> bool:
        recorded[fn.jit_function, compile["key"]] = compile
        return True

    before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, record
    try:
        yield
    finally:
        knobs.runtime.jit_cache_hook = before

    def make(function: Any, launch: dict[str, Any]) -> None:
        # A failure is repeated by the kernel's first launch, whose error says where it came from.
        with suppress(Exception):
            _ = compiled(function, launch).run  # the property loads it

    # A new thread's device is the first one, whatever this one's is.
    here = (torch.cuda.current_device(),)
    with ThreadPoolExecutor(threads(), initializer=torch.cuda.set_device, initargs=here) as pool:
        for (function, _), launch in recorded.items():
            pool.submit(make, function, launch)


def compiled(function: Any, launch: dict[str, Any]) -> Any:
    """Compile a kernel for a recorded launch, and keep it where further launches find it.

    As ``JITFunction.preload``, which reads the signature from JSON: there a NamedTuple has become a
    list, and a kernel cannot name the members of its arguments.
    """
    backend = function.device_caches[launch["device"]][3]
    given = json.loads(launch["specialization_data"])["options"]
    options = backend.parse_options(
        {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    )
    attributes = launch["configs"][0]
    arguments = (launch["key"], launch["signature"], launch["device"], launch["constants"])
    return function._do_compile(*arguments, options, attributes, warmup=True)


def threads() -> int:
    """This rank's share of the cores."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST, len(os.sched_getaffinity(0)) // ranks))
