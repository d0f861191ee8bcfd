"""Every kernel, at the tile sizes really used, compiles for sm_90 without spills and fits."""

import json

import pytest

from tests.kernels.tools.ahead_of_time import OPERATIONS, SHARED_LIMIT
from tests.kernels.tools.compiling_process import printed_by

COLD_STACK = 256  # bytes a thread, of addresses that roles of warps share
# Kernel of one warp a row, where a row cut over warps would go through shared memory.
ROWS_IN_A_WARP = "embed_window_forward"


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_spills_and_shared_memory_fits(operation):
    printed = printed_by("tests.kernels.tools.ahead_of_time", operation)
    compiled = [json.loads(line) for line in printed.splitlines()]
    assert compiled
    for resources in compiled:
        if resources["specialised"]:
            assert resources["hot_local_accesses"] == 0, resources
            assert resources["stack"] <= COLD_STACK, resources
        else:
            assert resources["stack"] == 0, resources
            assert resources["local_accesses"] == 0, resources
        inside_a_warp = resources["name"].startswith(ROWS_IN_A_WARP)
        assert resources["shared"] <= (0 if inside_a_warp else SHARED_LIMIT), resources
