"""The loops agent: few passes first, then those of the exported network."""

import pytest

from errors import InputError
from settings.load import load_settings
from swarm.agents.loops import Loops
from swarm.levers import STAGED
from tests.swarm.small import CALM, bids

AGENT = Loops((0, 2), 2)
DEEP = ["--loop-layers", "3,4", "--num-loops", "2"]


@pytest.mark.parametrize(
    ("progress", "held", "expected"),
    [
        (0.1, STAGED, (0, 0.0)),
        (0.1, 0, None),
        (0.35, 0, (2, 0.1)),
        (0.35, 2, None),
        (0.5, STAGED, None),
        (1.0, 0, (2, 0.1)),
    ],
)
def test_the_table(progress, held, expected):
    made = bids(AGENT, CALM._replace(progress=progress, levers={"loops": held}))
    assert [(bid.value, bid.gain) for bid in made] == ([expected] if expected else [])


def test_passes_that_were_decided_do_not_become_fewer():
    three, early = Loops((0, 1, 2), 2), CALM._replace(progress=0.1)
    assert not bids(three, early._replace(levers={"loops": 1}))
    assert bids(three, early._replace(levers={"loops": STAGED}))


def test_the_passes_of_the_exported_network_must_be_an_option():
    assert Loops.of(load_settings(DEEP, {})) is None
    assert Loops.of(load_settings([*DEEP, "--swarm-loops", "2,0"], {})) == AGENT
    with pytest.raises(InputError, match="swarm_loops has no 2"):
        Loops.of(load_settings([*DEEP, "--swarm-loops", "0,1"], {}))
