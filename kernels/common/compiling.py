"""Compile what a stretch of work needs side by side, before it runs.

    with side_by_side():
        ...  # launches no kernel that is not compiled yet, and notes it instead
    ...      # all are compiled, and loaded on the current device

Triton compiles a kernel when it is first launched, one after the other: half a minute of one core
for a training step. Threads do four of its five parts at once, for MLIR, LLVM, the assembler and
the C compiler need no Python. What the stretch computes is worthless, since kernels did not run.
"""

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
    wanted: dict[tuple[Any, str], str] = {}

    def note(*, fn: Any, compile: Any, **_: object) -> bool:
        wanted[fn.jit_function, compile["key"]] = compile["specialization_data"]
        return True

    before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, note
    try:
        yield
    finally:
        knobs.runtime.jit_cache_hook = before

    def make(function: Any, data: str) -> None:
        # What fails here is tried again at its first launch, whose error says where it came from.
        with suppress(Exception):
            _ = function.preload(data).run  # the property loads it

    # A new thread's device is the first one, whatever this one's is.
    here = (torch.cuda.current_device(),)
    with ThreadPoolExecutor(threads(), initializer=torch.cuda.set_device, initargs=here) as pool:
        for (function, _), data in wanted.items():
            pool.submit(make, function, data)


def threads() -> int:
    """This rank's share of the cores."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST, len(os.sched_getaffinity(0)) // ranks))
