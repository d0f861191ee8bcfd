"""``pytest -n auto`` on a CPU: as many processes as cores, each with its share of the threads.

Small tensors gain nothing from a second thread, so two processes take about half of the time. The
tests of a file run in one process, one after another, because they share what its fixtures make.
"""

import os

import pytest
from xdist.scheduler import LoadScopeScheduling

MOST = 8  # processes: each imports PyTorch
# Folders whose files share a fixture that takes long to make.
TOGETHER = ("tests/train/",)
# Files whose cases share nothing, and take long.
APART = ("tests/kernels/test_ahead_of_time.py",)
# They start first and in this order, by the CPU seconds that they take: who starts late ends last.
LONG = (
    "tests/train/",
    "tests/kernels/test_ahead_of_time.py",
    "tests/evaluation/audit/test_cheats.py",
    "tests/training/test_parallel.py",
    "tests/training/test_steering.py",
    "tests/bench/studies/test_ablate.py",
    "tests/artifact/submission/test_submit.py",
    "tests/training/test_fused_optimizer.py",
    "tests/bench/commits/test_against.py",
    "tests/bench/studies/test_edges.py",
    "tests/artifact/test_export.py",
    "tests/evaluation/test_evaluation_cli.py",
    "tests/kernels/attention/",
    "tests/kernels/",
    "tests/evaluation/audit/",
    "tests/artifact/",
    "tests/training/",
    "tests/bench/",
)


class ByFile(LoadScopeScheduling):
    """Hand out files, in the order in which they are collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def processes() -> int:
    """Return how many processes this machine runs side by side."""
    return min(MOST, len(os.sched_getaffinity(0)))


def arrange(items: list[pytest.Item]) -> None:
    """Order tests: the long files first."""
    items.sort(key=lambda item: start_of(item.nodeid))


def start_of(nodeid: str) -> int:
    """Return a test's index in ``LONG``; tests that are not listed come after."""
    matching = (index for index, prefix in enumerate(LONG) if nodeid.startswith(prefix))
    return next(matching, len(LONG))


def group_of(nodeid: str) -> str:
    """Return the name of the tests that run in one process, one after another."""
    if nodeid.startswith(APART):
        return nodeid
    together = (folder for folder in TOGETHER if nodeid.startswith(folder))
    return next(together, nodeid.partition("::")[0])
