"""The rules, one by one."""

import json
import math

import pytest

from swarm.levers import KEEP, ROLLBACK
from swarm.mesh import Rules
from tests.swarm.small import LEVERS, Scripted, mesh, snapshot

SILENT = Scripted("c")


def decided(*agents, rules=None, **changes):
    """The only verdict of one cycle."""
    cycle = mesh(*agents, rules=rules).cycle(snapshot(**changes))
    assert len(cycle.verdicts) == 1
    return cycle.verdicts[0]


@pytest.mark.parametrize(
    ("confidence", "rule", "after"),
    [(0.85, "alone", 0.7), (1.0, "alone", 0.7), (0.84, "no second", 1.0)],
)
def test_alone_it_takes_confidence(confidence, rule, after):
    verdict = decided(Scripted("a", ("lr_factor", 0.7, confidence)), SILENT)
    assert (verdict.rule, verdict.after, verdict.before) == (rule, after, 1.0)


@pytest.mark.parametrize(("against", "rule"), [(-0.6, "objection"), (-0.59, "alone")])
def test_an_objection_stops_one_agent_alone(against, rule):
    verdict = decided(Scripted("a", ("qat", 1.0, 0.95)), Scripted("b", qat=against))
    assert verdict.rule == rule
    assert verdict.after == (1.0 if rule == "alone" else 0.0)


def test_two_that_agree_in_direction_pass_with_the_surer_value():
    verdict = decided(
        Scripted("a", ("lr_factor", 0.7, 0.5)), Scripted("b", ("lr_factor", 0.8, 0.4)), SILENT
    )
    assert (verdict.rule, verdict.after, verdict.agents) == ("agreed", 0.7, ("a", "b"))


def test_two_as_sure_of_one_direction_take_the_smaller_change():
    verdict = decided(
        Scripted("a", ("lr_factor", 0.7, 0.5)), Scripted("b", ("lr_factor", 0.8, 0.5))
    )
    assert verdict.after == 0.8


def test_two_that_agree_pass_over_an_objection():
    a, b = Scripted("a", ("qat", 1.0, 0.5)), Scripted("b", qat=0.5)
    assert decided(a, b, Scripted("c", qat=-1.0)).rule == "agreed"


@pytest.mark.parametrize(("vote", "rule"), [(0.3, "agreed"), (0.29, "no second")])
def test_a_vote_makes_a_second_if_it_is_not_weak(vote, rule):
    assert decided(Scripted("a", ("qat", 1.0, 0.5)), Scripted("b", qat=vote)).rule == rule


@pytest.mark.parametrize("confidence", [0.29, 0.0, math.nan])
def test_an_agent_withdraws_what_it_is_not_sure_of(confidence):
    agents = Scripted("a", ("qat", 1.0, confidence)), Scripted("b", qat=1.0)
    cycle = mesh(*agents).cycle(snapshot())
    assert (cycle.verdicts, cycle.levers) == ([], LEVERS)
    assert len(cycle.proposals) == 1


def test_a_value_that_is_no_number_changes_nothing():
    assert not mesh(Scripted("a", ("clip", math.nan, 0.9))).cycle(snapshot()).verdicts


def test_of_conflicting_proposals_the_one_with_more_support_passes():
    down, up = Scripted("a", ("lr_factor", 0.4, 0.9)), Scripted("b", ("lr_factor", 0.6, 0.95))
    verdict = decided(down, up, lr_factor=0.5)
    assert (verdict.after, verdict.agents) == (0.6, ("b",))
    second = Scripted("c", ("lr_factor", 0.45, 0.3))
    verdict = decided(down, up, second, lr_factor=0.5)
    assert (verdict.after, verdict.agents) == (0.4, ("a", "c"))


def test_a_vote_against_takes_from_support():
    down, up = Scripted("a", ("clip", 0.2, 0.9)), Scripted("b", ("clip", 0.3, 0.95))
    against = Scripted("c", clip=-0.1)
    cycle = mesh(down, up, against).cycle(snapshot(clip=0.25))
    assert cycle.verdicts[0].support == pytest.approx(0.85)


def test_equal_support_for_both_directions_changes_nothing():
    down, up = Scripted("a", ("lr_factor", 0.4, 0.9)), Scripted("b", ("lr_factor", 0.6, 0.9))
    verdict = decided(down, up, lr_factor=0.5)
    assert (verdict.rule, verdict.after) == ("tie", 0.5)


def test_a_direction_that_does_not_pass_does_not_stand_in_the_way():
    down, up = Scripted("a", ("lr_factor", 0.4, 0.84)), Scripted("b", ("lr_factor", 0.6, 0.85))
    assert decided(down, up, lr_factor=0.5).after == 0.6


def test_what_is_as_it_is_wished_needs_no_decision():
    assert not mesh(Scripted("a", ("clip", LEVERS["clip"], 0.9))).cycle(snapshot()).verdicts


@pytest.mark.parametrize(
    ("lever", "value", "changes", "after"),
    [
        ("clip", 9.0, {"clip": 0.3}, 0.4),  # no higher than to begin with
        ("clip", 0.0, {"clip": 0.05}, 0.025),  # a sixteenth of that is lowest
        ("lr_factor", 0.0, {"lr_factor": 0.2}, 1 / 16),
        ("kg_weight", -1.0, {"kg_weight": 0.3}, 0.0),
        ("mtp_weight", 7.0, {"mtp_weight": 0.9}, 1.0),
        ("qat", 3.0, {}, 1.0),
    ],
)
def test_levers_have_ranges(lever, value, changes, after):
    assert decided(Scripted("a", (lever, value, 0.9)), **changes).after == pytest.approx(after)


@pytest.mark.parametrize(
    ("lever", "value", "after"),
    [("clip", 0.05, 0.2), ("lr_factor", 0.1, 0.5), ("mtp_weight", 1.0, 0.6)],
)
def test_levers_change_by_so_much_at_once(lever, value, after):
    assert decided(Scripted("a", (lever, value, 0.9))).after == pytest.approx(after)


def test_a_change_that_is_too_small_is_none():
    verdict = decided(Scripted("a", ("lr_factor", 0.99, 0.9)))
    assert (verdict.rule, verdict.after) == ("too small", 1.0)


def test_a_lever_turns_back_only_after_its_hold():
    agent = Scripted("a", ("clip", 0.2, 0.9))
    table = mesh(agent)
    assert table.cycle(snapshot()).levers["clip"] == 0.2
    agent.proposals = (("clip", 0.4, 0.9),)
    rules = [table.cycle(snapshot(clip=0.2)).verdicts[0].rule for _ in range(3)]
    assert rules == ["too soon", "too soon", "alone"]


def test_a_hold_outlasts_a_checkpoint():
    agent = Scripted("a", ("clip", 0.2, 0.9))
    table, restored = mesh(agent), mesh(agent)
    table.cycle(snapshot())
    restored.load(json.loads(json.dumps(table.state())))
    agent.proposals = (("clip", 0.4, 0.9),)
    rules = [restored.cycle(snapshot(clip=0.2)).verdicts[0].rule for _ in range(3)]
    assert rules == ["too soon", "too soon", "alone"]


def test_a_lever_goes_on_in_its_direction_at_once():
    agent = Scripted("a", ("clip", 0.1, 0.9))
    table = mesh(agent)
    assert table.cycle(snapshot()).levers["clip"] == 0.2
    assert table.cycle(snapshot(clip=0.2)).levers["clip"] == 0.1


def test_requests_are_granted_and_leave_levers_alone():
    cycle = mesh(Scripted("a", (KEEP, 1.0, 0.9))).cycle(snapshot())
    assert (cycle.keep, cycle.rollback, cycle.levers) == (True, False, LEVERS)
    cycle = mesh(Scripted("a", (ROLLBACK, 1.0, 0.9))).cycle(snapshot())
    assert (cycle.keep, cycle.rollback, cycle.changed) == (False, True, {"rollback": 1.0})


def test_a_state_that_is_left_is_not_kept():
    cycle = mesh(Scripted("a", (KEEP, 1.0, 0.9), (ROLLBACK, 1.0, 0.9))).cycle(snapshot())
    assert (cycle.keep, cycle.rollback) == (False, True)


def test_a_rollback_can_be_objected_to():
    table = mesh(Scripted("a", (ROLLBACK, 1.0, 0.9)), Scripted("b", rollback=-0.6))
    cycle = table.cycle(snapshot())
    assert (cycle.rollback, cycle.verdicts[0].rule) == (False, "objection")


def test_a_rollback_has_time_to_help_before_the_next():
    table = mesh(Scripted("a", (ROLLBACK, 1.0, 0.9)))
    granted = [table.cycle(snapshot()).rollback for _ in range(6)]
    assert granted == [True, False, False, False, True, False]


def test_rules_can_be_set():
    strict = Rules(alone=0.95, objection=0.1, withdrawn=0.5)
    a, b = Scripted("a", ("qat", 1.0, 0.9)), Scripted("b", qat=0.4)
    assert decided(a, b, rules=strict).rule == "no second"
    sure, weak = Scripted("a", ("qat", 1.0, 0.95)), Scripted("b", qat=-0.1)
    assert decided(sure, weak, rules=strict).rule == "objection"


def test_several_levers_are_decided_in_one_cycle():
    cycle = mesh(
        Scripted("a", ("clip", 0.2, 0.9), ("qat", 1.0, 0.9)), Scripted("b", qat=-0.9)
    ).cycle(snapshot())
    assert cycle.changed == {"clip": 0.2}
    assert cycle.levers == LEVERS | {"clip": 0.2}
    assert cycle.votes == [[0.0, 0.0], [0.0, -0.9]]
