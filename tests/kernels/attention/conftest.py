"""What tests of attention's kernels share."""

import pytest

from kernels.attention import backward_dkv, backward_dq, forward
from kernels.common.launch import Launch


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 keys and 32 rows, so that a short window has whole, masked and cut ones."""
    for kernel in (forward, backward_dq, backward_dkv):
        monkeypatch.setitem(kernel.LAUNCH, 64, Launch(rows=32, columns=16, warps=4, stages=2))
