"""The health agent: what alarms it, what it asks for, how it calms down."""

import math

import pytest

from swarm.agents.base import Proposal
from swarm.agents.health import GradientHealth, Health
from swarm.levers import UNREACHED
from tests.swarm.small import snapshot

AGENT = GradientHealth(0.4)
STEADY = Health(centre=math.log(0.4), spread=0.1, seen=10, calm=7)


def asked(state=STEADY, **changes):
    """{lever: value} that it asks for after one window, and its next state."""
    state, proposals = AGENT.propose(state, snapshot(**changes))
    return {proposal.lever: proposal.value for proposal in proposals}, state


def reasons(**changes):
    return {proposal.reason for proposal in AGENT.propose(STEADY, snapshot(**changes))[1]}


def test_a_steady_run_asks_for_nothing():
    assert asked()[0] == {}


def test_a_spike_against_the_running_distribution_tightens_and_skips_what_is_far_out():
    proposals, state = asked(gradient_peak=0.9)
    assert proposals == {"clip": 0.2, "skip_norm": pytest.approx(0.4 * 4)}
    assert state.calm == 0
    assert reasons(gradient_peak=0.9) == {"spike"}


def test_a_wide_distribution_takes_a_larger_spike():
    wide = STEADY._replace(spread=0.2)
    assert asked(wide, gradient_peak=0.4 * math.exp(1.1))[0] == {}
    assert asked(wide, gradient_peak=0.4 * math.exp(1.3))[0] != {}


def test_nothing_is_a_spike_until_the_distribution_is_learned():
    for seen in (0, 1, 2):
        assert asked(Health(math.log(0.4), 0.1, seen), gradient_peak=5.0)[0] == {}
    assert asked(Health(math.log(0.4), 0.1, 3), gradient_peak=5.0)[0] != {}


def test_a_spike_widens_the_distribution_by_little_and_a_lasting_change_is_accepted():
    state, alarms = STEADY, 0
    for _ in range(40):
        proposals, state = asked(state, gradient_peak=4.0)
        alarms += bool(proposals)
        if alarms == 1:
            assert state.centre < math.log(0.6)
    assert 3 < alarms < 30
    assert state.centre == pytest.approx(math.log(4.0), abs=0.1)


def test_a_nan_storm_tightens_and_slows_and_single_ones_do_not():
    assert asked(nonfinite=4)[0] == {}
    assert asked(nonfinite=5)[0] == {"clip": 0.2, "lr_factor": 0.5}
    assert reasons(nonfinite=5) == {"NaN storm"}


def test_a_loss_that_runs_away_is_divergence():
    assert asked(loss=2.12, velocity=0.001)[0] == {"clip": 0.2, "lr_factor": 0.5}
    assert reasons(loss=2.12, velocity=0.001) == {"divergence"}
    assert asked(loss=2.09, velocity=0.001)[0] == {}
    assert asked(loss=2.12, velocity=-0.001)[0] == {}
    assert asked(loss=2.12, velocity=0.001, noise=0.021)[0] == {}


FAR = {"loss": 2.4, "velocity": 0.001, "kept": 400}


@pytest.mark.parametrize(
    ("changes", "rollback"),
    [
        (FAR, True),
        (FAR | {"velocity": 0.0}, True),
        (FAR | {"velocity": -0.0004}, True),
        (FAR | {"velocity": -0.0006}, False),
        (FAR | {"kept": None}, False),
        (FAR | {"lr_scale": 0.4}, False),
        (FAR | {"loss": 2.2}, False),
        (FAR | {"noise": 0.07}, False),
        ({"nonfinite": 80, "kept": 400}, True),
        ({"nonfinite": 79, "kept": 400}, False),
        ({"nonfinite": 80, "kept": None}, False),
    ],
)
def test_what_is_far_gone_returns_to_the_last_good_state_if_there_is_one(changes, rollback):
    _, once = asked(**FAR)
    assert ("rollback" in asked(once, **changes)[0]) == rollback


def test_one_window_far_out_is_not_yet_gone():
    proposals, once = asked(**FAR)
    assert "rollback" not in proposals
    _, back = asked(once, loss=2.1, velocity=-0.004, kept=400)
    assert "rollback" not in asked(back, **FAR)[0]


def test_a_loss_that_sways_from_window_to_window_takes_a_larger_rise():
    swaying = STEADY._replace(sway=0.1)
    assert asked(swaying, loss=2.5, velocity=0.001)[0] == {}
    assert asked(swaying, loss=2.7, velocity=0.001)[0] == {"clip": 0.2, "lr_factor": 0.5}
    assert asked(swaying, loss=2.5, velocity=0.001)[1].gone == 0


def test_the_sway_is_learned_from_rises_alone():
    assert asked(velocity=0.001)[1].sway == pytest.approx(0.2 * 80 * 0.001)
    assert asked(STEADY._replace(sway=0.1), velocity=-0.1)[1].sway == pytest.approx(0.08)
    assert asked(velocity=1.0)[1].sway == pytest.approx(0.2 * 0.05 * 2.0), "an outlier is limited"


def test_calm_loosens_what_is_tight_with_growing_confidence():
    tight = {"clip": 0.1, "skip_norm": 2.0}
    state = STEADY._replace(calm=1)
    assert asked(state, **tight)[0] == {}
    state = STEADY._replace(calm=2)
    proposals = AGENT.propose(state, snapshot(**tight))[1]
    assert [(w.lever, w.value) for w in proposals] == [("clip", 0.2), ("skip_norm", UNREACHED)]
    assert proposals[0].confidence == pytest.approx(0.7)
    assert AGENT.propose(STEADY, snapshot(**tight))[1][0].confidence == 0.9


def test_every_sixteenth_calm_window_is_kept_from_the_fifth_on_if_its_loss_is_good():
    kept = [asked(STEADY._replace(calm=calm))[0] for calm in range(40)]
    assert [calm + 1 for calm, proposals in enumerate(kept) if proposals == {"keep": 1.0}] == [
        5,
        21,
        37,
    ]
    assert asked(STEADY._replace(calm=4), loss=2.06)[0] == {}


def test_a_window_in_which_nothing_arrived_says_nothing():
    assert asked(arrived=0) == ({}, STEADY)


@pytest.mark.parametrize(
    ("lever", "value", "calm", "vote"),
    [
        ("qat", 1.0, 0, -0.7),
        ("qat", 1.0, 1, 0.0),
        ("lr_factor", 0.25, 0, 0.5),
        ("lr_factor", 0.25, 1, 0.0),
        ("lr_factor", 0.75, 2, -0.7),
        ("lr_factor", 0.75, 3, 0.5),
        ("mtp_weight", 0.05, 0, 0.0),
    ],
)
def test_votes(lever, value, calm, vote):
    proposal = Proposal("other", lever, value, 0.9, "")
    assert AGENT.vote(STEADY._replace(calm=calm), snapshot(lr_factor=0.5), proposal) == vote
