"""The pace agent: the slope that it learns, and the price of a change of time."""

import json
import math

import pytest

from settings.load import load_settings
from swarm.agents.base import Bid, Estimate, Proposal
from swarm.agents.pace import Pace, Slope
from tests.swarm.small import snapshot

OPTIONS = ["--swarm-windows", "512,0", "--swarm-heads", "0", "--wallclock", "60"]
AGENT = Pace((("window", 512), ("window", 0), ("heads", 0)), 20_000)
BID = Bid("heads", "heads", 0, -0.001, 0.001, "")


def seen(step=800, progress=0.4, ms=(60.0, 50.0, 60.0, 58.0), bar=None, bar_step=None, **changes):
    found = snapshot(step=step, progress=progress, **changes)
    more = {"step_ms": ms and list(ms), "bar": bar, "bar_step": bar_step}
    return found._replace(signals=dict(found.signals) | more)


def learned(slope, until, total=2500.0, power=0.0, every=80, **changes):
    """The state after windows whose loss falls by ``slope`` an e-fold at the end of the run."""
    state = AGENT.start()
    for step in range(every, until + 1, every):
        middle = step - 40
        if power:
            loss = 2 + slope / power * (middle / total) ** -power
        else:
            loss = 9 - slope * math.log(middle)
        state, bids = AGENT.propose(state, seen(step, step / total, loss=loss, **changes))
        assert bids == ()
    return state


def test_a_run_that_the_clock_ends_and_that_has_options_prices_them():
    of = Pace.of(load_settings(OPTIONS, {}))
    assert of is not None
    assert of.options == (("window", 512), ("window", 0), ("heads", 0))
    assert Pace.of(load_settings([*OPTIONS, "--wallclock", "0"], {})) is None
    assert Pace.of(load_settings(["--wallclock", "60"], {})) is None


@pytest.mark.parametrize("slope", [0.05, 0.13, 0.6])
def test_the_slope_at_the_end_is_found_from_half_the_run(slope):
    state = learned(slope, 1240, power=0.5, noise=0.001)
    assert state.end == pytest.approx(slope, rel=0.25)


def test_a_slope_of_noise_or_of_few_windows_is_the_prior():
    assert learned(0.13, 160).end == 0.0
    assert learned(5.0, 240, noise=30.0).end == pytest.approx(0.13, rel=0.1)
    assert learned(-1.0, 800).end == 0.0


def test_a_falling_rate_teaches_no_slope():
    state = learned(0.13, 800)
    assert AGENT.propose(state, seen(880, loss=1.0, lr_scale=0.9))[0] == state
    assert AGENT.propose(state, seen(880, nonfinite=80))[0] == state


def test_another_variant_begins_anew_and_keeps_what_is_known():
    state = learned(0.13, 800)
    chosen = seen(880)
    chosen = chosen._replace(levers=dict(chosen.levers) | {"window": 512})
    after, _ = AGENT.propose(state, chosen)
    assert (after.end, after.weight) == (state.end, 1.0)


def test_a_probe_counts_in_place_of_the_windows_once():
    state, _ = AGENT.propose(learned(0.13, 800), seen(880, bar=3.0, bar_step=870))
    assert (state.weight, state.probe, state.y) == (1.0, 870, 3.0)
    assert state.x == pytest.approx(math.log(870))
    assert AGENT.propose(state, seen(960, bar=3.0, bar_step=870))[0] == state


def test_a_state_outlasts_a_checkpoint():
    state = learned(0.13, 800)
    assert Slope(*json.loads(json.dumps(list(state)))) == state


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_the_price_is_that_of_the_steps_that_are_lost(slope):
    state, ms = Slope(end=slope), (60.0, 50.0, 60.0, 58.0)
    answer = AGENT.vote(state, seen(step=800, progress=0.4, ms=ms), BID)
    expected = (slope or 0.13) * math.log(2000 / (800 + 1200 * 60 / 58))
    assert answer == (pytest.approx(-expected), pytest.approx(-0.2 * expected), True)
    assert expected < 0  # time is saved


def test_a_longer_step_costs_about_its_share_of_what_is_left():
    answer = AGENT.vote(
        Slope(), seen(ms=(60.0, 66.0, 60.0, 58.0)), BID._replace(lever="window", value=512)
    )
    assert isinstance(answer, Estimate)
    assert answer.gain == pytest.approx(-0.13 * 0.1 * 0.6, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "bid"),
    [
        ({"ms": None}, BID),
        ({"ms": (0.0, 0.0, 0.0, 0.0)}, BID),
        ({"step": 8000}, BID),  # 8,000 of 20,000 iterations: they end the run
        ({"progress": 1.0}, BID),
        ({}, BID._replace(lever="window", value=0)),  # as long as now
        ({}, BID._replace(lever="lr_factor", value=0.5)),
        ({}, Proposal("other", "heads", 0, 0.9, "")),
    ],
)
def test_what_has_no_price_gets_no_answer(changes, bid):
    assert AGENT.vote(Slope(), seen(**changes), bid) == 0.0
