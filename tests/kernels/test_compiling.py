"""Kernels of a stretch of work are compiled side by side, before any of them is launched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    printed = subprocess.run(
        [sys.executable, "-m", "tests.kernels.noted_launches"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return json.loads(printed)


def test_nothing_is_compiled_or_launched_while_noted(found):
    assert found["noted"] == [[], []]


def test_every_variant_is_compiled_once_where_the_stretch_ends(found):
    assert found["after"] == ["double", "double", "triple"]


def test_later_launches_find_their_kernels_compiled(found):
    assert found["later"] == 0
    assert found["launched"] == ["double", "double", "triple"]


def test_what_cannot_be_compiled_says_so_where_it_is_launched(found):
    assert found["error"] == "CompilationError"
