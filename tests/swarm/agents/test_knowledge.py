"""How the knowledge graph's weight falls over a run."""

import pytest

from swarm.agents.knowledge import KgWeight
from tests.swarm.small import proposed


@pytest.mark.parametrize(
    ("progress", "now", "weight"),
    [
        (0.0, 0.5, None),
        (0.149, 0.5, None),
        (0.15, 0.5, 0.4),
        (0.40, 0.4, 0.3),
        (0.41, 0.3, None),
        (0.70, 0.3, 0.1),
        (0.99, 0.1, None),
    ],
)
def test_the_graph_weighs_less_and_less(progress, now, weight):
    found = proposed(KgWeight(), progress=progress, kg_weight=now)
    assert found == (weight and (pytest.approx(weight), "taper"))
