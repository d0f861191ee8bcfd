"""Kernels of a piece of work are compiled in parallel, before any of them is launched."""

import json

import pytest

from tests.kernels.tools.compiling_process import printed_by


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    cache = str(tmp_path_factory.mktemp("cache"))
    return json.loads(printed_by("tests.kernels.tools.recorded_launches", TRITON_CACHE_DIR=cache))


def test_nothing_is_compiled_or_launched_while_recorded(found):
    assert found["recorded"] == [[], [], []]


def test_every_variant_is_compiled_once_where_the_context_ends(found):
    assert found["after"] == ["double"] * 2 + ["grouped"] * 2 + ["triple"]


def test_later_launches_find_their_kernels_compiled(found):
    assert found["later"] == 0
    assert found["launched"] == ["double"] * 2 + ["triple"] + ["grouped"] * 2


def test_contexts_of_two_threads_leave_launches_as_they_were(found):
    """The later one restored what the earlier had set, and no kernel ever ran again."""
    assert found["launched"]  # by the work after two that overlapped


def test_compiled_kernels_do_not_run_while_others_are_recorded(found):
    """They could read an address from what another kernel has not written."""
    assert len(found["launched"]) == 5  # by the work between two contexts


def test_threads_that_begin_at_once_hash_triton_once(found):
    assert found["hashed"] == 1
    assert found["phases"] == ["Triton's key", "kernels"]


def test_kernels_compiled_ahead_of_time_are_those_that_launches_compile(found):
    assert found["named as launched"]


def test_what_cannot_be_compiled_says_so_where_it_is_launched(found):
    assert found["error"] == "CompilationError"
