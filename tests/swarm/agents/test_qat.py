"""When the agent switches QAT on."""

import pytest

from swarm.agents.qat import QatTiming
from tests.swarm.small import proposed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"progress": 0.39, "lr_scale": 0.1}, None),  # a short run's cool-down begins early
        ({"progress": 0.41, "lr_scale": 0.16}, None),
        ({"progress": 0.41, "lr_scale": 0.14}, "low learning rate"),
        ({"progress": 0.41, "int6_error": 0.3}, "int6 error"),
        ({"progress": 0.41, "int6_error": 0.2}, None),
        ({"progress": 0.39, "int6_error": 0.3}, None),
        ({"progress": 0.65}, "deadline"),
        ({"progress": 0.65, "int6_error": 0.16}, "deadline"),
        ({"progress": 0.65, "int6_error": 0.14}, None),  # GPTQ repairs it
        ({"progress": 0.95, "lr_scale": 0.1, "int6_error": 0.14}, "low learning rate"),
    ],
)
def test_qat_starts_when_the_rate_is_low_the_error_large_or_the_deadline_there(changes, reason):
    assert proposed(QatTiming(), **changes) == (reason and (1.0, reason))


def test_qat_starts_once():
    assert proposed(QatTiming(), progress=0.9, lr_scale=0.1, qat=1.0) is None
