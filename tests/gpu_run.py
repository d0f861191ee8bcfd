"""``pytest -m gpu`` on one GPU: several processes, because most of the time is compilation.

Compiled kernels are shared through Triton's cache on disk. Cases that launch the same kernels run
one after another in one process, so that no two processes compile the same kernel at once.
``-n 0`` runs all tests in one process, ``-n N`` in so many.
"""

import fcntl
import gc
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

# With 12 or 26 processes on one card each of them starved.
PROCESSES = 6
SLOWEST = 25  # tests whose durations are printed
# Groups start in this order, because a long group that starts late ends last.
LONG = (
    "tests/training/test_kernels_gpu.py",
    "tests/evaluation/ttt/",
    "tests/training/test_step_gpu.py",
    "tests/training/",
    "tests/kernels/test_same_bits_gpu.py",
    "tests/kernels/attention/test_self_attention_kernel.py",
    "tests/kernels/attention/",
)
# Each case compiles kernels of its own; elsewhere all cases of a function share most of theirs.
APART = "tests/kernels/attention/"
SEED = re.compile(r"(?<=[\[-])\d(?=-)")  # changes no kernel
FREE = 16 * 2**30  # bytes of device memory that a test waits for
PATIENCE = 60.0  # seconds


class ByKernels(LoadScopeScheduling):
    """Hand out tests in groups, in the order in which they are collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def spread(config: pytest.Config) -> None:
    """Give a run of the GPU's tests its processes, unless the command line says how many."""
    options = config.option
    if options.markexpr != "gpu" or options.usepdb or "PYTEST_XDIST_WORKER" in os.environ:
        return
    if options.numprocesses is None:
        options.numprocesses = PROCESSES
    if options.durations is None:
        options.durations = SLOWEST


def arrange(items: list[pytest.Item]) -> None:
    """Order tests: long ones first, those marked ``alone`` last."""
    items.sort(key=lambda item: (is_alone(item), start_of(item.nodeid)))


def is_alone(item: pytest.Item) -> bool:
    """Return whether no other GPU test may run at the same time."""
    return item.get_closest_marker("alone") is not None


def start_of(nodeid: str) -> int:
    """Return a test's index in ``LONG``; tests that are not listed come after."""
    matching = (index for index, prefix in enumerate(LONG) if nodeid.startswith(prefix))
    return next(matching, len(LONG))


def group_of(nodeid: str) -> str:
    """Return the name of the tests that run in one process, one after another."""
    if nodeid.startswith(APART):
        return SEED.sub("", nodeid)
    return nodeid.partition("[")[0]


@contextmanager
def turn(alone: bool, folder: Path | None = None) -> Iterator[None]:
    """Hold the GPU: alone, or together with other tests that need not be alone.

    A test that waits to be alone holds the gate, so that no further test starts before it.
    """
    folder = folder or Path(tempfile.gettempdir())
    gate_path, gpu_path = (folder / f"gpu-tests-{os.getuid()}.{part}" for part in ("gate", "gpu"))
    with gate_path.open("w") as gate, gpu_path.open("w") as gpu:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(gpu, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@contextmanager
def in_turn_to_compile() -> Iterator[None]:
    """Let one process at a time compile what others are about to compile too."""
    path = Path(tempfile.gettempdir()) / f"gpu-tests-{os.getuid()}.compiling"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def await_memory() -> None:
    """Wait until other processes leave enough of the device's memory, but not forever."""
    deadline = time.monotonic() + PATIENCE
    while torch.cuda.mem_get_info()[0] < FREE and time.monotonic() < deadline:
        time.sleep(0.2)


def free_memory() -> None:
    """Give cached memory back to the device, for the other processes."""
    if torch.cuda.memory_reserved() > 2**30:
        gc.collect()
        torch.cuda.empty_cache()
