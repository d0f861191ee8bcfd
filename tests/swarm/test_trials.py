"""Trials: an unsure bid is made for some windows, measured against the curve before, and kept or
undone with the state as it was."""

import json
import math
import random
import statistics
from pathlib import Path

import pytest

from settings.load import load_settings
from swarm.agents.base import Agent, Bid, Estimate
from swarm.decision_log import NAME, read
from swarm.levers import STAGED, limits
from swarm.pooling import combined
from swarm.replay import replay
from swarm.simulate import SyntheticRun, simulate
from swarm.steering import Steering
from swarm.trials import KINDS, Kind, Line, Trials, worth
from tests.swarm.small import CALM, FRONTIER, Scripted, steering
from tests.swarm.test_bids import LEVERS, SETTINGS, Bidder

EVERY = 80
UNSURE = ("heads", 0, 0.03, 0.05)  # z 0.6 of the 1.6 that heads ask for


def losses(step, gain=0.0):
    return 5.0 - 0.3 * math.log(step) - gain


class Run:
    """A made-up run, whose held-out loss follows a line with noise but for what the levers do."""

    def __init__(self, *agents, left=2, noise=0.002, seed=0):
        self.mesh = Trials(agents, limits(SETTINGS), left=left)
        self.levers, self.step, self.draw = dict(LEVERS), 0, random.Random(seed)
        self.noise = noise

    def window(self, gain=0.0, **changes):
        self.step += EVERY
        bar = losses(self.step, gain) + self.draw.gauss(0, self.noise)
        signals = {"noise": self.noise, "bar": bar, "bar_step": self.step}
        signals |= {name: changes.pop(name) for name in signals if name in changes}
        given = {"step": self.step, "progress": self.step / 4000, "kept": 0} | changes
        seen = CALM._replace(levers=self.levers, signals=signals, **given)
        cycle = self.mesh.cycle(seen)
        self.levers = dict(cycle.levers)
        return cycle

    def until_a_trial(self, most=12):
        for _ in range(most):
            cycle = self.window()
            if cycle.changed:
                return cycle
        return None


def rules(cycle):
    return [(each.lever, each.rule, each.after) for each in cycle.verdicts]


def test_a_line_measures_a_gain_with_its_error():
    draw, gains, errors = random.Random(0), [], []
    for _ in range(4000):
        points = [(math.log(s), losses(s) + draw.gauss(0, 0.01)) for s in range(400, 1040, 80)]
        later = [(math.log(s), losses(s, 0.02) + draw.gauss(0, 0.01)) for s in (1040, 1120)]
        line = Line.through(points, 0.0)
        gain, error, added = line.gain(later)
        assert not added
        gains.append(gain - 0.02)
        errors.append(error / math.sqrt(line.variance) * 0.01)
    assert statistics.fmean(gains) == pytest.approx(0, abs=0.001)
    assert statistics.stdev(gains) == pytest.approx(errors[0], rel=0.04)
    assert errors == pytest.approx([errors[0]] * 4000)
    assert Line.through([(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)], 0.5).variance == 0.25


def test_an_unsure_bid_is_tried_once_a_line_can_be_drawn():
    run = Run(Bidder("a", UNSURE))
    for _ in range(4):
        assert rules(run.window()) == [("heads", "unsure", STAGED)]
    cycle = run.window()
    assert rules(cycle) == [("heads", "trial", 0), ("keep", "trial", 2.0)]
    assert (cycle.keep, cycle.rollback, cycle.changed) == (True, False, {"heads": 0, "keep": 2.0})
    assert cycle.levers["heads"] == 0
    assert run.mesh.turns["heads"] == (5, 0)


@pytest.mark.parametrize(("gain", "rule"), [(0.05, "kept"), (0.0, "lost"), (-0.05, "lost")])
def test_what_is_measured_keeps_or_undoes_a_trial(gain, rule):
    run = Run(Bidder("a", UNSURE))
    assert run.until_a_trial()
    assert not run.window(gain).changed
    cycle = run.window(gain)
    measured = cycle.proposals[-1]
    assert isinstance(measured, Bid)
    assert (measured.agent, measured.lever, measured.value) == ("trial", "heads", 0)
    assert measured.gain == pytest.approx(gain, abs=0.01)
    assert 0.001 < measured.sd < 0.01
    z = combined([Estimate(0.03, 0.05), Estimate(measured.gain, measured.sd)]).z
    assert cycle.verdicts[-1].support == z
    if rule == "kept":
        assert (rules(cycle)[-1], cycle.changed) == (("heads", "kept", 0), {})
        assert run.levers["heads"] == 0
    else:
        assert rules(cycle)[-2:] == [("heads", "lost", STAGED), ("rollback", "lost", 2.0)]
        assert cycle.rollback
        assert run.levers["heads"] == STAGED
    assert run.mesh.trial is None


def test_the_price_of_time_counts_before_and_after():
    """A measured loss of nothing does not pay for dearer steps."""
    dear = Bidder("pace", heads=Estimate(-0.02, 0.004, added=True))
    run = Run(Bidder("a", ("heads", 0, 0.04, 0.02)), dear)
    assert run.until_a_trial()
    run.window(0.02)
    assert rules(run.window(0.02))[-2][1] == "lost"
    run = Run(Bidder("a", ("heads", 0, 0.04, 0.02)), dear)
    assert run.until_a_trial()
    run.window(0.06)
    assert rules(run.window(0.06))[-1][1] == "kept"


def test_classes_ask_for_more_where_nothing_can_be_taken_back():
    assert {lever: kind.sure for lever, kind in KINDS.items()} == {
        "lr_factor": 1.0,
        "window": 1.0,
        "loops": 1.6,
        "heads": 1.6,
    }


def test_a_trial_begins_only_where_it_can_be_measured_and_undone():
    def never(*agents, left=2, **changes):
        run = Run(*agents, left=left)
        return not any(run.window(**changes).changed for _ in range(20))

    bidder = Bidder("a", UNSURE)
    assert never(bidder, kept=None)
    assert never(bidder, lr_scale=0.9)
    assert never(bidder, progress=0.71)
    assert never(bidder, left=0)
    assert never(bidder, bar_step=None)
    assert never(bidder, Scripted("b", heads=-0.6))
    assert never(Bidder("a", ("clip", 0.1, 0.6, 1.0)))  # no kind
    assert never(Bidder("a", ("heads", 0, 0.005, 0.05)))  # withdrawn
    assert not never(bidder)


def test_a_trial_ends_before_the_rate_falls():
    """Two points take 160 of 4,000 steps; the fifth window, at 10 % of the run, is the first."""
    for constant, begins in ((0.145, True), (0.135, False)):
        run = Run(Bidder("a", UNSURE))
        run.mesh.constant = constant
        assert (run.until_a_trial() is not None) == begins


def test_a_long_run_waits_for_its_probes():
    """With a probe every fourth cycle two points take eight; a short run waits for six."""
    run, seen = Run(Bidder("a", UNSURE)), []
    for cycle in range(40):
        step, gain = 20 * (cycle // 4 + 1), 0.05 * (run.mesh.trial is not None)
        found = run.window(
            gain, arrived=5, step=5 * (cycle + 4), bar=losses(step, gain), bar_step=step
        )
        seen += [(cycle, rule) for _, rule, _ in rules(found) if rule != "unsure"]
    assert seen[:3] == [(16, "trial"), (16, "trial"), (24, "kept")]


def test_a_trial_must_be_worth_what_it_may_lose():
    """A lost one costs its steps; what heads are worth late in a run is less than that."""
    assert Run(Bidder("a", ("heads", 0, 0.0003, 0.0006))).until_a_trial(20) is None
    points = [(math.log(step), losses(step)) for step in range(400, 1040, 80)]
    seen = CALM._replace(step=1000, progress=0.25, signals={"noise": 0.002})
    kind = Kind(2, 1.6)
    values = [worth(kind, combined([Estimate(sd / 2, sd)]), points, seen) for sd in (0.1, 0.01)]
    assert values[0] > values[1] > 0
    lost = 0.3 * math.log(4000 / (4000 - 160))
    hopeless = worth(kind, combined([Estimate(-1.0, 0.01)]), points, seen)
    assert hopeless == pytest.approx(-lost, rel=0.01)


def test_a_probe_is_one_point_however_often_it_is_seen():
    run, steps = Run(Bidder("a", UNSURE)), [None, 80, 80, 240, 320, 320, 480, 560, 560]
    for step in steps[:-2]:
        assert not run.window(bar=losses(step or 1), bar_step=step).changed
    assert len(run.mesh.points) == 4
    assert run.window(bar=losses(560), bar_step=560).changed
    for _ in range(3):
        assert not run.window(bar=losses(560), bar_step=560).changed
    assert run.mesh.trial
    assert run.mesh.trial.found == ()


def test_bids_wait_while_a_trial_runs():
    run = Run(Bidder("a", UNSURE), other := Bidder("b"))
    assert run.until_a_trial()
    other.bids = (("window", 512, 9.0, 1.0),)
    cycle = run.window()
    assert (cycle.verdicts, cycle.changed) == ([], {})
    assert len(cycle.proposals) == 2


def test_an_emergency_ends_a_trial_and_restores_the_state_before_it():
    run = Run(Bidder("a", UNSURE), guard := Scripted("guard"))
    assert run.until_a_trial()
    guard.proposals = (("lr_factor", 0.5, 0.9),)
    cycle = run.window()
    assert cycle.changed == {"lr_factor": 0.5, "heads": STAGED, "rollback": 2.0}
    assert rules(cycle)[-2][1] == "disturbed"
    run = Run(Bidder("a", UNSURE), guard := Scripted("guard"))
    assert run.until_a_trial()
    guard.proposals = (("rollback", 1.0, 0.9),)
    cycle = run.window()
    assert cycle.changed == {"heads": STAGED, "rollback": 2.0}
    assert [each.lever for each in cycle.verdicts] == ["heads", "rollback"]


def test_an_emergency_s_value_of_the_lever_on_trial_stays():
    run = Run(Bidder("a", ("lr_factor", 0.5, 0.05, 0.1)), guard := Scripted("guard"))
    assert run.until_a_trial()
    guard.proposals = (("lr_factor", 0.25, 0.9),)
    cycle = run.window()
    assert (cycle.levers["lr_factor"], cycle.rollback) == (0.25, True)


def test_a_rate_that_begins_to_fall_or_points_that_do_not_come_end_a_trial():
    run = Run(Bidder("a", UNSURE))
    assert run.until_a_trial()
    assert rules(run.window(lr_scale=0.99))[0] == ("heads", "disturbed", STAGED)
    run = Run(Bidder("a", UNSURE))
    assert run.until_a_trial()
    ended = [run.window(bar_step=None).rollback for _ in range(7)]
    assert ended == [False] * 6 + [True]


def test_there_are_so_many_trials_and_each_has_a_line_of_its_own():
    run = Run(Bidder("a", UNSURE), left=2)
    seen = [{rule for _, rule, _ in rules(run.window())} for _ in range(34)]
    begun = [number for number, found in enumerate(seen) if "trial" in found]
    assert len(begun) == 2
    assert begun[1] - begun[0] == 2 + 5  # the trial, and a line of its own


def test_a_change_begins_the_line_anew():
    run = Run(Bidder("a", UNSURE), other := Scripted("other"))
    run.window()
    other.proposals = (("kg_weight", 0.5, 0.9),)
    assert run.window().changed
    assert run.mesh.points == ()
    other.proposals = (("keep", 1.0, 0.9),)
    assert run.window().changed
    assert len(run.mesh.points) == 1


def test_a_rehearsal_leaves_no_trace():
    run = Run(Bidder("a", UNSURE))
    for _ in range(12):
        seen = CALM._replace(levers=run.levers, step=run.step + 80, progress=0.1, kept=0)
        before = run.mesh.state()
        run.mesh.rehearse(seen)
        assert run.mesh.state() == before
        run.window()


class Hopeful(Agent):
    """Bids for no MTP heads, unsurely."""

    name, levers, sets = "hopeful", ("window", "loops", "heads"), ("frontier",)
    reads = ("bar", "bar_step")

    def propose(self, state, snapshot):
        if snapshot.levers["heads"] == 0:
            return state, ()
        return state, (Bid(self.name, "heads", 0, 0.1, 0.2, "hope"),)


def probed(swarm, rows):
    """The rows, with a probe right before each cycle."""
    for row in rows:
        if row.step % EVERY == 0 and row.step:
            swarm.note(bar=losses(row.step), bar_step=row.step)
        yield row


@pytest.fixture
def hopeful(monkeypatch):
    """Runs of a set whose agents are this one and the guard."""
    from swarm.agents.guard import Guard

    for module in ("swarm.steering", "swarm.replay", "swarm.yoke"):
        monkeypatch.setattr(f"{module}.AGENTS", (Hopeful, Guard))
    return lambda *given: steering(*FRONTIER, *given)


def test_a_log_with_trials_replays_across_a_resumption_in_one(hopeful, tmp_path: Path):
    made_up, first = SyntheticRun("calm", seed=1), hopeful()
    rows = list(made_up)
    first.log_to(tmp_path / NAME)
    simulate(first, probed(first, rows[: 5 * EVERY + 41]), made_up.obey)
    first.close()
    assert first.mesh.trial
    second = hopeful()
    second.load(first.state())
    assert json.dumps(second.mesh.state()) == json.dumps(first.mesh.state())
    second.log_to(tmp_path / NAME)
    simulate(second, probed(second, rows[5 * EVERY + 41 :]), made_up.obey)
    second.close()
    records = list(read(tmp_path / NAME))
    assert replay(tmp_path / NAME, records)[1] == []
    found = {each["rule"] for r in records for each in r.get("verdicts", ())}
    assert {"trial", "lost"} <= found
    later = next(r for r in records if r["kind"] == "start" and r["cycle"])
    later["state"]["trials"]["left"] += 1
    assert replay(tmp_path / NAME, records)[1]


def test_a_log_without_time_for_a_trial_replays(hopeful, tmp_path: Path):
    swarm = hopeful("--warmdown-share", "0.85")
    swarm.log_to(tmp_path / NAME)
    simulate(swarm, probed(swarm, SyntheticRun("calm", seed=1)))
    swarm.close()
    records = list(read(tmp_path / NAME))
    assert not {"trial"} & {each["rule"] for r in records for each in r.get("verdicts", ())}
    assert replay(tmp_path / NAME, records)[1] == []


def test_a_yoke_copies_tries_and_restores_as_the_log_did(hopeful, tmp_path: Path):
    made_up, swarm = SyntheticRun("calm", seed=1), hopeful()
    swarm.log_to(tmp_path / NAME)
    simulate(swarm, probed(swarm, made_up), made_up.obey)
    swarm.close()
    assert swarm.levers["heads"] == STAGED
    yoke = hopeful("--swarm-yoke", str(tmp_path / NAME))
    assert yoke.mesh.slots == (1.0, 2.0)
    found = [(cycle.keep, cycle.rollback) for cycle in at_once(yoke, 0.9, 4)]
    assert found == [(True, False), (False, True), (False, True), (False, False)]


def at_once(swarm: Steering, progress: float, cycles: int):
    """Cycles of a run that is at this progress when it first looks."""
    for step in range(1, cycles + 1):
        swarm.add(2.0, 0.3)
        yield swarm.cycle(step, progress, 1.0)


def test_only_the_set_frontier_tries_and_none_if_none_is_asked_for():
    assert type(steering(*FRONTIER).mesh) is Trials
    assert type(steering(*FRONTIER, "--swarm-trials", "0").mesh) is not Trials
    assert type(steering(*FRONTIER, "--agents-off", "pace").mesh) is not Trials  # no probes
    seed = Steering.of(load_settings([], {}))
    assert seed
    assert type(seed.mesh) is not Trials
    assert "trials" not in seed.state()["mesh"]


def test_a_checkpoint_from_before_trials_loads():
    swarm = steering(*FRONTIER)
    state = swarm.state()
    del state["mesh"]["trials"]
    swarm.load(state)
    assert swarm.mesh.state()["trials"]["left"] == 2
