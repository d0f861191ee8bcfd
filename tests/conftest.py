"""Shared by all tests: without a GPU, kernels are interpreted and ``gpu`` tests are skipped.

``pytest -m gpu`` on a GPU and ``pytest -n auto`` run in several processes; ``tests.gpu_run`` and
``tests.cpu_run`` say how.
"""

import fcntl
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from files import PROJECT
from tests import cpu_run, gpu_run, interpreter

if not torch.cuda.is_available():
    # Triton reads it when a kernel is defined, so before any test imports one.
    os.environ["TRITON_INTERPRET"] = "1"
    interpreter.quicken()

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    processes = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    if torch.cuda.is_available():
        gpu_run.spread(config)


def pytest_xdist_auto_num_workers() -> int:
    return gpu_run.PROCESSES if torch.cuda.is_available() else cpu_run.processes()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    if config.option.markexpr == "gpu":
        return gpu_run.ByKernels(config, log)
    return cpu_run.ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while modules are imported, nor later through what they are."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
    if config.option.markexpr == "gpu":
        gpu_run.arrange(items)
    elif "PYTEST_XDIST_WORKER" in os.environ:
        cpu_run.arrange(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if not torch.cuda.is_available() or not item.get_closest_marker("gpu"):
        return (yield)
    with gpu_run.turn(gpu_run.is_alone(item)):
        gpu_run.await_memory()
        try:
            return (yield)
        finally:
            gpu_run.free_memory()


@pytest.fixture
def cpu_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let budgets count this process's CPU time, so that other processes do not slow its steps."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)


@pytest.fixture(scope="session")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default corpus, for all processes together: it takes ten seconds. Leave it as it is."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    out = shared / "builtin"
    command = [sys.executable, "-m", "data", "builtin", "--out", str(out), "--workers", "2"]
    with (shared / "builtin.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture
def heard(number: int) -> Iterator[None]:
    """Give the signal ``number`` its default effect, also below nohup, which ignores SIGHUP."""
    before = signal.signal(number, signal.SIG_DFL)
    yield
    signal.signal(number, before)
