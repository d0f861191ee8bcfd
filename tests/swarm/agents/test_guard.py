"""The guard: the rules of health, with copies from the first step on."""

import pytest

from settings.load import load_settings
from swarm.agents.base import Bid
from swarm.agents.guard import Guard
from swarm.agents.health import GradientHealth, Health
from swarm.levers import KEEP
from swarm.simulate import SyntheticRun, simulate
from swarm.steering import Steering
from tests.swarm.small import snapshot

SETTINGS = load_settings(["--swarm-agents", "frontier"], {})


def test_copies_come_early_and_seldom_and_not_in_an_alarm():
    agent, kept, state = Guard(0.4), [], Guard(0.4).start()
    for window in range(1, 90):
        changes = {"nonfinite": 70} if window == 12 else {}
        state, found = agent.propose(state, snapshot(**changes))
        kept += [window for each in found if each.lever == KEEP]
    assert kept == [2, 4, *range(20, 90, 8)]


def test_a_log_of_before_has_the_copies_that_it_had():
    agent, state, kept = Guard(0.4, copies=(2, 4, 8, 16, 32, 48)), Health(), []
    for window in range(1, 90):
        state, found = agent.propose(state, snapshot())
        kept += [window for each in found if each.lever == KEEP]
    assert kept == [2, 4, 8, 16, 32, 48, 64, 80]


@pytest.mark.parametrize("calm", [1, 3])
def test_a_tight_clip_waits_for_calm_windows_also_when_a_copy_is_due(calm):
    state = Health(seen=11, calm=calm)
    found = {each.lever for each in Guard(0.4).propose(state, snapshot(clip=0.1))[1]}
    assert found == ({KEEP, "clip"} if calm == 3 else {KEEP})
    same = GradientHealth(0.4).propose(state, snapshot(clip=0.1))[1]
    assert [each.lever for each in same] == (["clip"] if calm == 3 else [])


@pytest.mark.parametrize("lever", ["window", "loops", "heads"])
def test_in_an_alarm_no_other_variant(lever):
    bid = Bid("other", lever, 0, 0.1, 0.01, "")
    assert Guard().vote(Health(calm=0), snapshot(), bid) == -0.7
    assert Guard().vote(Health(calm=1), snapshot(), bid) == 0.0
    assert Guard().vote(Health(calm=0), snapshot(), bid._replace(lever="qat")) == -0.7


def test_a_run_that_dies_in_its_first_windows_returns_to_its_first_state():
    swarm = Steering.of(SETTINGS)
    assert swarm is not None
    assert swarm.kept == 0
    swarm.add(float("nan"), float("inf"))
    cycle = swarm.cycle(80, 0.1, 1.0)
    assert (cycle.snapshot.kept, cycle.rollback) == (0, True)
    seed = Steering.of(load_settings([], {}))
    assert seed is not None
    assert seed.kept is None


@pytest.mark.parametrize("kind", ["calm", "spike", "divergence", "nan-storm", "slow"])
def test_it_recovers_what_the_seed_s_agents_recover(kind):
    swarm, run = Steering.of(SETTINGS), SyntheticRun(kind)
    assert swarm is not None
    simulate(swarm, run, run.obey)
    assert run.lost <= 0.1
    if kind in ("calm", "slow"):
        assert swarm.levers["lr_factor"] == 1.0
