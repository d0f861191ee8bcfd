"""The sight agent: narrow first, then wider by the table."""

import pytest

from errors import InputError
from settings.load import load_settings
from swarm.agents.base import SURE, Proposal
from swarm.agents.sight import Sight
from swarm.levers import STAGED
from tests.swarm.small import CALM, bids


def agent(*arguments: str) -> Sight:
    made = Sight.of(load_settings(["--swarm-windows", "256,512,1024,0", *arguments], {}))
    assert made is not None
    return made


def bid(progress, held=STAGED, of=None):
    """(window, gain > 0) of its bid; None if there is none."""
    found = CALM._replace(progress=progress, levers={"window": held})
    made = bids(of or agent(), found)
    return (made[0].value, made[0].gain > 0) if made else None


@pytest.mark.parametrize(
    ("progress", "held", "expected"),
    [
        (0.0, STAGED, (256, False)),
        (0.2, 256, None),
        (0.5, 256, (512, True)),
        (0.5, STAGED, (512, False)),
        (0.6, 1024, None),
        (0.7, 512, (0, True)),
        (0.7, 1024, (0, True)),
        (0.7, STAGED, None),
        (0.3, 1024, None),  # nothing that is wide becomes narrow again
        (1.0, 0, None),
    ],
)
def test_the_table(progress, held, expected):
    assert bid(progress, held) == expected


def test_the_last_steps_see_what_evaluation_sees_whatever_it_costs():
    found = CALM._replace(progress=0.85, levers={"window": 256})
    _, (wider,) = agent().propose((), found)
    assert isinstance(wider, Proposal)
    assert (wider.value, wider.confidence) == (0, SURE)
    assert agent().propose((), found._replace(levers={"window": 0}))[1] == ()


def test_a_wider_sight_is_worth_its_doublings():
    found = CALM._replace(progress=0.8, levers={"window": 256})
    (wider,) = bids(agent(), found)
    assert (wider.value, wider.gain, wider.sd) == (0, pytest.approx(0.078), pytest.approx(0.039))


def test_the_table_is_in_fractions_of_what_evaluation_sees():
    windowed = agent("--train-seq-len", "16384", "--window", "1024")
    assert bid(0.0, of=windowed) == (256, False)
    assert bid(0.3, 256, of=windowed) is None
    assert bid(0.6, 256, of=windowed) is None
    assert bid(0.8, 256, of=windowed) == (1024, True)


def test_without_the_window_of_evaluation_it_would_end_blind():
    assert Sight.of(load_settings([], {})) is None
    with pytest.raises(InputError, match=r"swarm_windows has no 0, .* add it"):
        Sight.of(load_settings(["--swarm-windows", "256"], {}))
