"""The rate agent: it suspects, and alone it changes nothing."""

from swarm.agents.base import Bid
from swarm.agents.guard import Guard
from swarm.agents.rate import Rate
from swarm.agents.recovery import Recovery
from tests.swarm.small import bids, mesh, snapshot

RISING = {"loss": 2.1, "lowest": 2.0, "velocity": 0.001}


def test_a_rising_loss_is_a_suspicion_of_half_a_standard_error():
    (bid,) = bids(Rate(), snapshot(**RISING))
    assert bid == Bid("rate", "lr_factor", 0.5, bid.sd / 2, bid.sd, "suspicion")
    assert bid.sd == 2.1 - 2.0


def test_alone_it_changes_nothing_and_with_an_alarm_it_does():
    (verdict,) = mesh(Rate()).cycle(snapshot(**RISING)).verdicts
    assert (verdict.rule, verdict.after) == ("unsure", 1.0)
    cycle = mesh(Guard(0.4), Rate()).cycle(snapshot(**RISING | {"loss": 2.12}))
    assert cycle.changed["lr_factor"] == 0.5


def test_a_plateau_is_no_suspicion():
    state = Rate().start()
    for _ in range(60):
        state, found = Rate().propose(state, snapshot())
        assert not found


def test_a_lowered_rate_is_raised_when_the_loss_is_well_again_but_not_by_this_agent():
    swarm, alone = mesh(Guard(0.4), Rate(), Recovery()), Rate().start()
    for _ in range(3):
        seen = snapshot(lr_factor=0.5, velocity=-0.01)
        alone, found = Rate().propose(alone, seen)
        assert not found
        changed = swarm.cycle(seen).changed
        assert changed.get("lr_factor") == (1.0 if alone.well == 3 else None)
