"""Tests on the GPU take turns, and cases that share kernels share a process."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gpu_run import LONG, group_of, start_of, turn

ATTENTION = "tests/kernels/attention/test_self_attention_kernel.py::test_bf16"


def holding(alone: bool, folder: Path, begun: threading.Event, end: threading.Event):
    """A thread that holds the GPU until it is told to end."""

    def hold() -> None:
        with turn(alone, folder):
            begun.set()
            end.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    return thread


@pytest.mark.parametrize("first", [False, True], ids=["shared", "alone"])
@pytest.mark.parametrize("second", [False, True], ids=["shared", "alone"])
def test_only_tests_that_need_not_be_alone_overlap(first: bool, second: bool, tmp_path: Path):
    begun, end, later = threading.Event(), threading.Event(), threading.Event()
    threads = [holding(first, tmp_path, begun, end)]
    assert begun.wait(10)
    threads.append(holding(second, tmp_path, later, end))
    together = not (first or second)
    assert later.wait(10 if together else 0.2) == together
    end.set()
    for thread in threads:
        thread.join()
    assert later.is_set()


def test_a_test_that_waits_to_be_alone_goes_before_those_that_come_later(tmp_path: Path):
    order: list[str] = []

    def hold(name: str, alone: bool) -> None:
        with turn(alone, tmp_path):
            order.append(name)

    with ExitStack() as held:
        held.enter_context(turn(alone=False, folder=tmp_path))
        threads = []
        for name, alone in (("alone", True), ("later", False)):
            threads.append(threading.Thread(target=hold, args=(name, alone)))
            threads[-1].start()
            time.sleep(0.1)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == ["alone", "later"]


def test_seeds_of_a_case_share_its_process_and_other_cases_do_not():
    assert group_of(f"{ATTENTION}[size0-1-xsa-all]") == group_of(f"{ATTENTION}[size0-2-xsa-all]")
    assert group_of(f"{ATTENTION}[size0-1-xsa-all]") != group_of(f"{ATTENTION}[size0-1--all]")
    assert group_of(f"{ATTENTION}[size0-1-xsa-all]") != group_of(f"{ATTENTION}[size1-1-xsa-all]")


def test_cases_of_other_functions_share_a_process():
    function = "tests/kernels/mlp/test_kernel.py::test_bf16_is_as_exact_as_pytorch"
    assert group_of(f"{function}[one token]") == group_of(f"{function}[real size]") == function


def test_long_files_start_first_and_are_there():
    assert all((Path(__file__).parents[1] / path).exists() for path in LONG)
    files = ("tests/kernels/mlp/test_kernel.py", ATTENTION, "tests/training/test_step_gpu.py")
    assert sorted(files, key=start_of) == [*reversed(files)]
