"""Bids: gains in nats are pooled, time has its price, each class of lever asks for its own z."""

import json
import math

import pytest

from settings.load import load_settings
from swarm.agents.base import Agent, Bid, Estimate
from swarm.levers import STAGED, limits, start_values
from swarm.mesh import Mesh
from swarm.pooling import confidence, pooled
from tests.swarm.small import CALM, Scripted

OPTIONS = ["--swarm-windows", "512,0", "--swarm-heads", "0", "--swarm-loops", "0"]
SETTINGS = load_settings(["--swarm-agents", "frontier", *OPTIONS], {})
LEVERS = start_values(SETTINGS)


class Bidder(Agent):
    """Bids (lever, value, gain, sd), and answers others' bids by lever."""

    levers = tuple(LEVERS)

    def __init__(self, name, *bids, **answers):
        self.called, self.bids, self.answers = name, bids, answers

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.called

    def propose(self, state, snapshot):
        return state, [Bid(self.name, *bid, reason="script") for bid in self.bids]

    def vote(self, state, snapshot, proposal):
        return self.answers.get(proposal.lever, 0.0)


def cycle(*agents):
    return Mesh(agents, limits(SETTINGS)).cycle(CALM._replace(levers=LEVERS))


def decided(*agents):
    (verdict,) = cycle(*agents).verdicts
    return verdict.rule, verdict.after, verdict.agents


def test_estimates_of_one_gain_are_weighted_by_their_inverse_variances():
    bids = [Bid("a", "window", 512, 0.02, 0.01, ""), Bid("b", "window", 512, -0.01, 0.02, "")]
    weights = [1 / 0.01**2, 1 / 0.02**2]
    expected = (0.02 * weights[0] - 0.01 * weights[1]) / math.sqrt(sum(weights))
    assert pooled(bids, ()) == pytest.approx(expected)
    assert pooled(bids[:1], [Estimate(-0.01, 0.02)]) == pytest.approx(expected)


def test_a_price_adds_to_the_gain_so_that_a_small_one_does_not_outweigh_it():
    bid = Bid("a", "window", 512, 0.02, 0.01, "")
    z = pooled([bid], [Estimate(-0.001, 0.0002, added=True)])
    assert z == pytest.approx(0.019 / math.hypot(0.01, 0.0002))
    assert pooled([bid], [Estimate(-0.001, 0.0002)]) < -4


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, math.nan)])
def test_a_bid_of_strange_numbers_is_withdrawn(bad):
    assert not cycle(Bidder("a", ("window", 512, *bad))).verdicts
    unsound = Bidder("b", window=Estimate(*bad))
    assert not cycle(Bidder("a", ("window", 512, 9.0, 1.0)), unsound).verdicts


def test_confidence_keeps_the_old_thresholds_meaning():
    assert confidence(0.0) == 0.5
    assert confidence(1.04) == pytest.approx(0.85, abs=0.001)
    assert confidence(-0.25) == pytest.approx(0.4, abs=0.002)


@pytest.mark.parametrize(
    ("lever", "value", "z"), [("window", 512, 1.0), ("heads", 0, 1.6), ("lr_factor", 0.5, 1.037)]
)
def test_what_cannot_be_taken_back_asks_for_more(lever, value, z):
    passes, fails = Bidder("a", (lever, value, z + 0.01, 1.0)), Bidder("a", (lever, value, z, 1.01))
    assert decided(passes) == ("pooled", value, ("a",))
    assert decided(fails)[0] == "unsure"


def test_a_bid_that_is_hardly_worth_it_is_withdrawn():
    assert not cycle(Bidder("a", ("window", 512, 0.25, 1.0))).verdicts
    assert decided(Bidder("a", ("window", 512, 0.26, 1.0)))[0] == "unsure"


def test_another_s_price_stops_or_carries_a_bid():
    bid = Bidder("a", ("window", 512, 0.02, 0.01))
    assert decided(bid)[0] == "pooled"
    dear = Bidder("pace", window=Estimate(-0.019, 0.003, added=True))
    assert not cycle(bid, dear).verdicts
    lossy = Bidder("a", ("heads", 0, -0.005, 0.002))
    assert not cycle(lossy).verdicts
    saves = Bidder("pace", heads=Estimate(0.02, 0.004, added=True))
    assert decided(lossy, saves) == ("pooled", 0, ("a", "pace"))


def test_bids_for_the_same_change_are_one_voice():
    """Two that are unsure are not yet two that agree; together they may be sure enough."""
    one, two = ("window", 512, 0.6, 1.0), ("window", 512, 0.9, 1.0)
    assert decided(Bidder("a", one), Bidder("b", one))[0] == "unsure"
    assert decided(Bidder("a", one), Bidder("b", two)) == ("pooled", 512, ("a", "b"))


def test_an_objection_stops_a_bid_and_a_proposal_may_second_it():
    bid = Bidder("a", ("window", 512, 2.0, 1.0))
    assert decided(bid, Scripted("b", window=-0.6))[0] == "objection"
    unsure = Bidder("a", ("lr_factor", 0.5, 0.5, 1.0))
    rule, after, agents = decided(unsure, Scripted("b", ("lr_factor", 0.6, 0.7)))
    assert (rule, after, agents) == ("agreed", 0.6, ("a", "b"))


def test_of_two_options_the_surer_one_passes():
    agents = Bidder("a", ("window", 512, 1.5, 1.0)), Bidder("b", ("window", 0, 2.0, 1.0))
    assert decided(*agents) == ("pooled", 0, ("b",))


def test_the_log_has_bids_and_estimates_and_the_seed_s_limits_as_they_were():
    from swarm.decision_log import cycle_record, start_record

    agents = Bidder("a", ("window", 512, 0.02, 0.01)), Bidder("b", window=Estimate(0.01, 0.1))
    record = cycle_record(1, cycle(*agents))
    assert record["proposals"][0]["gain"] == 0.02
    assert record["votes"] == [[0.0, [0.01, 0.1, False]]]
    assert json.loads(json.dumps(record)) == record
    bounds = start_record(Mesh(agents, limits(SETTINGS)))["bounds"]
    assert bounds["heads"] == {"options": [0], "hold": 2, "sure": 1.6}
    seed = load_settings(OPTIONS, {})
    assert start_record(Mesh((), limits(seed)))["bounds"]["heads"] == {"options": [0], "hold": 2}
    assert LEVERS["heads"] == STAGED
