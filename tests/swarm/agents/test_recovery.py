"""The recovery agent: a lowered rate comes back when nothing lowers it again."""

import pytest

from swarm.agents.guard import Guard
from swarm.agents.health import Health
from swarm.agents.recovery import Lowered, Recovery
from swarm.simulate import SyntheticRun, simulate
from swarm.steering import Steering
from tests.swarm.agents.test_guard import SETTINGS
from tests.swarm.small import mesh, snapshot


def proposed(*factors: float) -> list[list[float]]:
    """What it proposes in windows at these rate factors."""
    agent, state, found = Recovery(), Recovery().start(), []
    for factor in factors:
        state, proposals = agent.propose(state, snapshot(lr_factor=factor))
        found.append([each.value for each in proposals])
    return found


def test_a_run_whose_rate_nobody_lowers_hears_nothing():
    assert not any(proposed(*[1.0] * 40))


def test_the_third_window_at_a_lowered_rate_doubles_it_and_the_next_goes_on():
    assert proposed(1.0, 0.25, 0.25, 0.25, 0.5, 1.0) == [[], [], [], [0.5], [1.0], []]


def test_each_further_fall_doubles_the_wait_and_falls_in_a_row_are_one():
    once = [1.0, 0.5, 0.25, 0.25, 0.25]
    again = [*once, 0.5, *[0.25] * 5]
    assert proposed(*once)[-1] == [0.5]
    assert not any(proposed(*again)[5:][1:])
    assert proposed(*again, 0.25)[-1] == [0.5]


@pytest.mark.parametrize(("calm", "rule"), [(2, "objection"), (3, "agreed")])
def test_it_passes_but_not_before_the_guard_is_calm(calm, rule):
    both = mesh(Guard(0.4), Recovery())
    both.states = [Health(seen=7, calm=calm - 1), Lowered(0.5, 8, 1)]
    verdicts = {each.lever: each for each in both.cycle(snapshot(lr_factor=0.5)).verdicts}
    assert verdicts["lr_factor"].rule == rule


def test_a_rate_that_is_too_high_is_tried_ever_less_often():
    """Where each rise ends in an alarm, few of a hundred windows are at the high rate."""
    agent, state, factor, rises = Recovery(), Recovery().start(), 0.5, 0
    for _ in range(100):
        state, proposals = agent.propose(state, snapshot(lr_factor=factor))
        if factor == 1.0:
            factor = 0.5
        elif proposals:
            factor, rises = 1.0, rises + 1
    assert rises == 5


def test_after_a_divergence_the_rate_is_soon_what_it_was():
    swarm, run = Steering.of(SETTINGS), SyntheticRun("divergence")
    assert swarm is not None
    factors = [each["levers"]["lr_factor"] for each in simulate(swarm, run, run.obey)]
    assert factors[10:18] == [0.5, 0.25, 0.125, 0.125, 0.125, 0.25, 0.5, 1.0]
    assert set(factors[18:]) == {1.0}
