"""Compile all kernels of a piece of work in parallel, before it runs.

    with compile_in_parallel():
        ...  # no kernel runs; those that are not compiled yet are recorded
    ...      # all recorded kernels are compiled, and loaded on the current device

Triton compiles a kernel at its first launch, so one after the other: half a minute of one core for
a training step. Threads run four fifths of that work concurrently, because MLIR, LLVM, the
assembler and the C compiler release Python's lock. Results computed within the context are
meaningless. Compiled kernels do not run either, because they could read addresses from them.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from threading import RLock
from typing import Any

import torch
from triton import knobs
from triton.runtime.cache import triton_key
from triton.runtime.jit import JITFunction

MAX_THREADS = 16  # more gain nothing, because a fifth of the work holds Python's lock
RECORDING = RLock()  # one thread at a time, or the last to end would not restore the launches


@cache
def begin_key() -> Future[str]:
    """Begin, in a thread, to hash Triton itself, which is part of each kernel's key in its cache.

    That reads 0.4 GB. Triton keeps the result, but threads that need it before would each compute
    it.
    """
    pool = ThreadPoolExecutor(1)
    future = pool.submit(triton_key)
    pool.shutdown(wait=False)
    return future


@contextmanager
def compile_in_parallel(done: Callable[[str], object] = lambda phase: None) -> Iterator[None]:
    """Record launches of all threads; compile the recorded kernels when the context ends.

    A context of another thread begins after it. Compiled kernels stay in this process and in
    Triton's cache on disk.

    Args:
        done: is called when Triton's key is known, and when all kernels are compiled or loaded.
    """
    recorded: dict[tuple[Any, str], dict[str, Any]] = {}

    def record(*, fn: Any, compile: Any, **_: object) -> bool:
        recorded[fn.jit_function, compile["key"]] = compile
        return True

    with RECORDING:
        run, before = JITFunction.run, knobs.runtime.jit_cache_hook

        def unlaunched(self: Any, *arguments: Any, warmup: bool, **options: Any) -> Any:
            return run(self, *arguments, warmup=True, **options)

        JITFunction.run, knobs.runtime.jit_cache_hook = unlaunched, record
        try:
            yield
        finally:
            JITFunction.run, knobs.runtime.jit_cache_hook = run, before

    def build(function: Any, launch: dict[str, Any]) -> None:
        # A kernel that fails here fails again at its first launch, with a traceback.
        with suppress(Exception):
            compile_recorded(function, launch)

    begin_key().result()
    done("Triton's key")
    # A new thread would use the first device instead of this thread's.
    device = (torch.cuda.current_device(),)
    with ThreadPoolExecutor(threads(), initializer=torch.cuda.set_device, initargs=device) as pool:
        for (function, _), launch in recorded.items():
            pool.submit(build, function, launch)
    done("kernels")


def compile_recorded(function: Any, launch: dict[str, Any]) -> None:
    """Compile and load what Triton's hook was passed.

    ``JITFunction.preload`` does the same from ``specialization_data``, but that is JSON, in which a
    NamedTuple argument has lost the names of its fields.
    """
    backend = function.device_caches[launch["device"]][3]
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(launch["specialization_data"])["options"].items()
    }
    kernel = function._do_compile(
        launch["key"],
        launch["signature"],
        launch["device"],
        launch["constants"],
        backend.parse_options(options),
        launch["configs"][0],
        warmup=True,
    )
    _ = kernel.run  # the property loads it


def threads() -> int:
    """Return this rank's number of threads: its part of the cores."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)) // ranks))
