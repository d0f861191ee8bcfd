"""Every kernel, at the tile sizes really used, compiles for sm_90 without spills and fits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.ahead_of_time import OPERATIONS, SHARED_LIMIT

COLD_STACK = 256  # bytes a thread, of addresses that roles of warps share
PROJECT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_spills_and_shared_memory_fits(operation):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    printed = subprocess.run(
        [sys.executable, "-m", "tests.kernels.ahead_of_time", operation],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    compiled = [json.loads(line) for line in printed.splitlines()]
    assert compiled
    for resources in compiled:
        if resources["specialised"]:
            assert resources["hot_local_accesses"] == 0, resources
            assert resources["stack"] <= COLD_STACK, resources
        else:
            assert resources["stack"] == 0, resources
            assert resources["local_accesses"] == 0, resources
        assert resources["shared"] <= SHARED_LIMIT, resources
