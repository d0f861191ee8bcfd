"""Trials: a change that a bid is too unsure of is made for some probes, measured, kept or undone.

A trial begins with a copy of the state. The points before it, held-out losses over the logarithm of
the step, have a least-squares line. By how much the trial's points lie below its continuation is
one more estimate of the bid's gain, and decides with those that the agents gave. A trial is lost,
and the copy restored, if that is not sure enough, or if something else changed meanwhile.

The loss of the training steps would not do: a lower rate lowers it at once, because it lowers the
noise of the weights, and a window changes what it is a loss of.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swarm.agents.base import Bid, Estimate, Offer
from swarm.levers import KEEP, ROLLBACK, SLOTS, SURE_OF, TRIED, LeverValues
from swarm.mesh import Cycle, Mesh, Verdict, Vote
from swarm.pooling import Combined, combined, confidence
from swarm.telemetry import Snapshot

FEWEST, MOST = 5, 8  # points of a line
LATEST = 0.7  # fraction of the run after which no trial begins
AGENT = "trial"  # who bids what was measured


class Kind(NamedTuple):
    """One row of the table.

    points: of the trial.
    sure: standard errors over zero with which it is kept, by the lever's class: 1.0 if the change
        is cheap and can be taken back, 1.6 if not.
    """

    points: int
    sure: float


KINDS = {
    # Averages of the weights follow a rate late.
    "lr_factor": Kind(4, 1.0),
    **{lever: Kind(2, sure) for lever, sure in SURE_OF.items()},
}

Point = tuple[float, float]
"""Logarithm of the step, and held-out nats of the averaged weights."""


class Trial(NamedTuple):
    """A trial that runs.

    lever, before, value: what changed.
    agent: whose bid it is.
    until: last cycle that waits for points.
    estimates: of the bid, and the answers to it.
    found: points so far.
    """

    lever: str
    before: float
    value: float
    agent: str
    until: int
    estimates: Sequence[Estimate]
    found: Sequence[Point] = ()


class Line(NamedTuple):
    """Least squares: number of points, their centre, slope, sum of squares of x, variance."""

    number: int
    x: float
    y: float
    slope: float
    squares: float
    variance: float

    @classmethod
    def through(cls, points: Sequence[Point], noise: float) -> "Line":
        """Return the line of three points or more, whose standard error is at least ``noise``."""
        number = len(points)
        x, y = (math.fsum(each) / number for each in zip(*points, strict=True))
        squares = math.fsum((each - x) ** 2 for each, _ in points)
        slope = math.fsum((a - x) * (b - y) for a, b in points) / squares
        left = math.fsum((b - y - slope * (a - x)) ** 2 for a, b in points)
        return cls(number, x, y, slope, squares, max(left / (number - 2), noise * noise))

    def error(self, x: float, points: int) -> float:
        """Return the standard error of the mean of further points about ``x`` less the line."""
        return math.sqrt(
            self.variance * (1 / points + 1 / self.number + (x - self.x) ** 2 / self.squares)
        )

    def gain(self, points: Sequence[Point]) -> Estimate:
        """Return by how much further points lie below the line."""
        x, y = (math.fsum(each) / len(points) for each in zip(*points, strict=True))
        return Estimate(self.y + self.slope * (x - self.x) - y, self.error(x, len(points)))


class Trials(Mesh):
    """A mesh that tries what a bid is unsure of.

    Args:
        left: most trials.
        constant: fraction of the run at the full rate, in which a trial has to end.

    Attributes:
        trial: the one that runs.
        points: before it, since the levers last changed.
        probed: steps done at the latest probe.
    """

    slots = SLOTS

    def __init__(self, *arguments: Any, left: int = 0, constant: float = 1.0) -> None:
        super().__init__(*arguments)
        self.reads |= {"noise"}
        self.left, self.probed, self.constant = left, 0.0, constant
        self.trial: Trial | None = None
        self.points: Sequence[Point] = ()

    def cycle(self, snapshot: Snapshot) -> Cycle:
        """Return what the agents decide, and what a trial adds to that."""
        cycle, trial, new = super().cycle(snapshot), self.trial, self._new(snapshot)
        if trial:
            cycle = self._go_on(trial, cycle, new)
        else:
            self.points = (*self.points, *new)[-MOST:]
            cycle = self._begun(cycle)
        if not self.trial and (trial or cycle.changed.keys() - {KEEP}):
            self.points = ()
        return cycle

    def rehearse(self, snapshot: Snapshot) -> None:
        """Run a cycle and undo it."""
        before = self.left, self.probed, self.trial, self.points
        super().rehearse(snapshot)
        self.left, self.probed, self.trial, self.points = before

    def _new(self, snapshot: Snapshot) -> Sequence[Point]:
        """Return the point of a probe since the cycle before, if there was one."""
        seen = snapshot.signals
        step = seen.get("bar_step") or 0.0
        if step <= self.probed:
            return ()
        self.probed = step
        return ((math.log(step), seen["bar"]),)

    def _verdicts(
        self, levers: LeverValues, proposals: Sequence[Offer], votes: Sequence[Sequence[Vote]]
    ) -> list[Verdict]:
        """Return the verdicts; while a trial runs, bids wait, and only proposals may pass."""
        if self.trial:
            both = zip(proposals, votes, strict=True)
            both = [each for each in both if not isinstance(each[0], Bid)]
            proposals, votes = [offer for offer, _ in both], [cast for _, cast in both]
        return super()._verdicts(levers, proposals, votes)

    def _begun(self, cycle: Cycle) -> Cycle:
        """Return the cycle, with the begin of a trial if one is worth it and nothing changed."""
        seen = cycle.snapshot
        if not self.left or cycle.changed or seen.kept is None:
            return cycle
        if seen.lr_scale < 1 or not 0 < seen.progress <= LATEST:
            return cycle  # a falling rate makes the loss fall for other reasons
        unsure = {
            each.lever: each
            for each in cycle.verdicts
            if each.rule == "unsure" and each.lever in KINDS
        }
        for bid, cast in zip(cycle.proposals, cycle.votes, strict=True):
            verdict = unsure.get(bid.lever)
            if type(bid) is not Bid or not verdict or bid.agent not in verdict.agents:
                continue
            if trial := self._wanted(bid, cast, cycle):
                self.left, self.trial = self.left - 1, trial
                return self._moved(cycle, trial, trial.value, KEEP, AGENT, verdict.support)
        return cycle

    def _wanted(self, bid: Bid, cast: Sequence[Vote], cycle: Cycle) -> Trial | None:
        """Return the trial of a bid, if nobody objects, it can be measured, and it is worth it."""
        lever, limit, seen = bid.lever, self.bounds[bid.lever], cycle.snapshot
        kind, before = KINDS[lever], seen.levers[lever]
        if len(self.points) < FEWEST:
            return None
        if any(not isinstance(vote, Estimate) and vote <= -self.rules.objection for vote in cast):
            return None
        bids, answers, _ = self.estimates(bid, cycle.proposals, cast)
        estimates = (*(Estimate(each.gain, each.sd) for each in bids), *answers)
        value = limit.moved(before, limit.allowed(bid.value))
        if value == before or not bids or worth(kind, combined(estimates), self.points, seen) <= 0:
            return None
        between = math.exp(self.points[-1][0]) - math.exp(self.points[-2][0])
        late = max(1.0, between / max(1, seen.arrived))  # cycles that a point takes
        until = self.cycles + math.ceil(3 * kind.points * late)
        if seen.progress * (1 + kind.points * between / seen.step) > self.constant:
            return None
        return Trial(lever, before, value, bid.agent, until, estimates)

    def _go_on(self, trial: Trial, cycle: Cycle, new: Sequence[Point]) -> Cycle:
        """Return the cycle, with the end of the trial if it has come."""
        kind, seen = KINDS[trial.lever], cycle.snapshot
        found = (*trial.found, *new)
        self.trial = trial._replace(found=found)
        if cycle.changed.keys() - {KEEP} or seen.lr_scale < 1 or self.cycles > trial.until:
            return self._lost(cycle, trial, "disturbed", 0.0)
        if len(found) < kind.points:
            return cycle
        self.trial = None
        line = Line.through(self.points, seen.signals["noise"])
        gain = line.gain(found)
        z = combined((*trial.estimates, gain)).z
        bid = Bid(AGENT, trial.lever, trial.value, gain.gain, gain.sd, "measured")
        proposals, votes = [*cycle.proposals, bid], [*cycle.votes, [0.0] * len(self.agents)]
        cycle = cycle._replace(proposals=proposals, votes=votes)
        if not z >= kind.sure:
            return self._lost(cycle, trial, "lost", z)
        kept = Verdict(trial.lever, trial.value, trial.value, "kept", (trial.agent, AGENT), z)
        return cycle._replace(verdicts=[*cycle.verdicts, kept])

    def _lost(self, cycle: Cycle, trial: Trial, rule: str, z: float) -> Cycle:
        """Return the cycle with the copy restored, and the lever unless it was just decided."""
        self.trial = None
        value = cycle.levers[trial.lever] if trial.lever in cycle.changed else trial.before
        return self._moved(cycle, trial, value, ROLLBACK, rule, z)

    def _moved(
        self, cycle: Cycle, trial: Trial, value: float, request: str, rule: str, z: float
    ) -> Cycle:
        """Return the cycle with a further change of the trial's lever, and a request."""
        lever, before = trial.lever, cycle.levers[trial.lever]
        self.turns[lever] = self.cycles, self.bounds[lever].direction(before, value)
        agents = trial.agent, AGENT
        verdicts = [each for each in cycle.verdicts if each.lever != request]
        if rule == AGENT:
            verdicts = [each for each in verdicts if each.lever != lever]
        verdicts += [
            Verdict(lever, before, value, rule, agents, z),
            Verdict(request, 0.0, TRIED, rule, agents, z),
        ]
        changed = {**cycle.changed, lever: value, request: TRIED}
        return cycle._replace(
            verdicts=verdicts, levers={**cycle.levers, lever: value}, changed=changed
        )

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON."""
        own = {"left": self.left, "probed": self.probed, "points": self.points, "trial": self.trial}
        own |= {"constant": self.constant} if self.constant < 1 else {}  # a log of before has none
        return super().state() | {"trials": own}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned; a checkpoint without trials has begun none."""
        super().load(state)
        if own := state.get("trials"):
            self.left, self.probed, self.points = own["left"], own["probed"], own["points"]
            self.constant = own.get("constant", self.constant)
            self.trial = None
            if own["trial"]:
                trial = Trial(*own["trial"])
                self.trial = trial._replace(estimates=[Estimate(*e) for e in trial.estimates])


def worth(kind: Kind, prior: Combined, points: Sequence[Point], seen: Snapshot) -> float:
    """Return nats that a trial may be expected to gain at the run's end, less what it may lose.

    What it measures moves the mean gain, by a known standard deviation. Kept, it gains the mean
    as moved; lost, it has cost its steps, at the slope of the line.

    Args:
        kind: of the trial.
        prior: what is estimated without it.
        points: before it.
        seen: now.
    """
    line = Line.through(points, seen.signals["noise"])
    steps = kind.points * (math.exp(points[-1][0]) - math.exp(points[-2][0]))
    error = line.error(math.log(seen.step + steps / 2), kind.points)
    after = 1 / (1 / prior.variance + 1 / error**2) if error else 0.0
    spread = math.sqrt(max(0.0, prior.variance - after))
    if not spread:
        return 0.0
    needed = (kind.sure * math.sqrt(after + prior.added) - prior.mean) / spread
    kept, density = confidence(-needed), math.exp(-needed * needed / 2) / math.sqrt(2 * math.pi)
    all_steps = seen.step / seen.progress
    price = math.log(all_steps / max(1.0, all_steps - steps)) * max(0.0, -line.slope)
    return prior.mean * kept + spread * density - price * (1 - kept)
