"""When the MTP weight is halved."""

import pytest

from swarm.agents.mtp import MtpWeight
from tests.swarm.small import proposed


@pytest.mark.parametrize(
    ("progress", "now", "weight"), [(0.74, 0.1, None), (0.75, 0.1, 0.05), (0.9, 0.05, None)]
)
def test_mtp_weighs_half_in_the_end(progress, now, weight):
    assert proposed(MtpWeight(0.1), progress=progress, mtp_weight=now) == (
        weight and (weight, "end of the run")
    )
