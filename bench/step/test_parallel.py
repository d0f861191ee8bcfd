"""Two GPUs against one, one process per rank: fails below the target."""

from collections.abc import Callable

import pytest
import torch

from bench.harness.figures import Figure, missed
from bench.step.parallel import figures as figures_of
from bench.step.parallel import measure

GPUS = 2


@pytest.mark.skipif(torch.cuda.device_count() < GPUS, reason="needs two GPUs")
def test_two_gpus(device: torch.device, figures: Callable[[list[Figure]], None]) -> None:
    found = figures_of(measure(1), measure(GPUS), GPUS)
    figures(found)
    assert not missed(found)
