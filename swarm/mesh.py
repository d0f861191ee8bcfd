"""The mesh: agents propose changes of levers, or bid for them, and vote; fixed rules decide.

A cycle is a function of the agents' states and the snapshot, in plain Python floats. So ranks that
see the same snapshot decide alike without communication, and a log can be replayed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from swarm.agents.base import Agent, Bid, Estimate, Offer
from swarm.levers import KEEP, KEPT, REQUESTS, ROLLBACK, LeverValues, Limits
from swarm.pooling import confidence, pooled
from swarm.telemetry import Snapshot

PASSING = ("agreed", "alone", "pooled")
WORTHWHILE = 0.6  # a bid with less confidence is withdrawn
Vote = float | Estimate


@dataclass(frozen=True)
class Rules:
    """When a proposal passes.

    Attributes:
        alone: confidence at which a proposal passes without a second agent.
        objection: confidence of a vote against it that stops such a proposal.
        withdrawn: a proposal with less confidence is withdrawn; a vote with less confidence does
            not make a second agent.
    """

    alone: float = 0.85
    objection: float = 0.6
    withdrawn: float = 0.3


class Verdict(NamedTuple):
    """The result of the proposals for one lever.

    before, after: its value; the same unless a proposal passed.
    rule: one of ``PASSING``, the reason why nothing passed, or what a trial or a yoke decided.
    agents: those in favour.
    support: sum of their confidences minus those of the agents against it.
    """

    lever: str
    before: float
    after: float
    rule: str
    agents: tuple[str, ...]
    support: float


class Cycle(NamedTuple):
    """Everything that one cycle saw and decided.

    snapshot: what the agents saw.
    proposals, verdicts: in order; proposals include bids.
    votes: of each proposal, by agent in the mesh's order.
    levers: values from now on.
    changed: levers and requests for which a proposal passed, with their values: of a request the
        copy that is meant, one of ``SLOTS``.
    """

    snapshot: Snapshot
    proposals: Sequence[Offer]
    votes: Sequence[Sequence[Vote]]
    verdicts: Sequence[Verdict]
    levers: LeverValues
    changed: Mapping[str, float]

    @property
    def keep(self) -> bool:
        """Whether the loop copies the weights now; never in a cycle that restores them."""
        return KEEP in self.changed and not self.rollback

    @property
    def rollback(self) -> bool:
        """Whether the loop restores a copy of the weights."""
        return ROLLBACK in self.changed


class Side:
    """The proposals for a lever in one direction, with the agents for and against them.

    Attributes:
        sure: confidence that the best proposal needs if it is a bid; None: it is none.
    """

    __slots__ = ("against", "best", "direction", "favour", "lever", "sure")

    def __init__(self, lever: str, direction: int) -> None:
        self.lever, self.direction = lever, direction
        self.best = (-1.0, 0.0, 0.0)  # confidence, -|change|, value
        self.sure: float | None = None
        self.favour: dict[str, float] = {}
        self.against: dict[str, float] = {}

    def propose(
        self, agent: str, confidence: float, value: float, before: float, sure: float | None = None
    ) -> None:
        """Add a proposal. Of several the most confident counts, of those the smallest change."""
        ranked = (confidence, -abs(value - before), value)
        if ranked > self.best:
            self.best, self.sure = ranked, sure
        self.vote(agent, confidence)

    def vote(self, agent: str, vote: float) -> None:
        """Add a vote, or a proposer's confidence; an agent counts once, with its strongest."""
        side, weight = (self.favour, vote) if vote > 0 else (self.against, -vote)
        if weight > side.get(agent, 0.0):
            side[agent] = weight

    def rule(self, rules: Rules) -> str:
        """Return the rule by which it passes, or the reason why it does not."""
        if len(self.favour) > 1 and sum(c >= rules.withdrawn for c in self.favour.values()) > 1:
            return "agreed"
        if self.best[0] < (rules.alone if self.sure is None else self.sure):
            return "no second" if self.sure is None else "unsure"
        if self.against and max(self.against.values()) >= rules.objection:
            return "objection"
        return "alone" if self.sure is None else "pooled"

    @property
    def support(self) -> float:
        """Confidences in favour minus confidences against."""
        return sum(self.favour.values()) - sum(self.against.values())


class Mesh:
    """Agents that decide together.

    Args:
        agents: in a fixed order, the same on every rank.
        bounds: limits of each lever and request that may be proposed.
        rules: when a proposal passes.

    Attributes:
        states: of the agents, in their order.
        cycles: number of cycles so far.
        turns: by lever, the cycle and the direction of its last change.
        keeps_start: whether an agent needs a copy of the state before the first step.
        reads: names of the signals that are read.
        slots: copies of the state that it may have the loop keep.
    """

    slots: tuple[float, ...] = (KEPT,)

    def __init__(
        self, agents: Sequence[Agent], bounds: Mapping[str, Limits], rules: Rules | None = None
    ) -> None:
        self.agents, self.bounds, self.rules = tuple(agents), bounds, rules or Rules()
        self.states = [agent.start() for agent in self.agents]
        self.cycles = 0
        self.turns: dict[str, tuple[int, int]] = {}
        self.keeps_start = any(agent.keeps_start for agent in self.agents)
        self.reads = frozenset(name for agent in self.agents for name in agent.reads)
        # Agents that never vote are not called, because a cycle must take microseconds only.
        self._voters = [
            (index, agent)
            for index, agent in enumerate(self.agents)
            if type(agent).vote is not Agent.vote
        ]

    def cycle(self, snapshot: Snapshot) -> Cycle:
        """Return what the agents decide about a snapshot; updates their states."""
        self.cycles += 1
        proposals: list[Offer] = []
        states = self.states
        for index, agent in enumerate(self.agents):
            states[index], found = agent.propose(states[index], snapshot)
            if found:
                proposals.extend(found)
        if not proposals:
            return Cycle(snapshot, (), (), (), snapshot.levers, {})
        votes = [self._votes(snapshot, proposal) for proposal in proposals]
        verdicts = self._verdicts(snapshot.levers, proposals, votes)
        levers, changed, moved = snapshot.levers, {}, {}
        for lever, before, after, *_ in verdicts:
            if after != before:
                changed[lever] = after
                if lever in levers:
                    moved[lever] = after
        if moved:
            levers = {**levers, **moved}
        return Cycle(snapshot, proposals, votes, verdicts, levers, changed)

    @property
    def declared(self) -> set[str]:
        """Levers and requests that the agents may propose to change."""
        return {lever for agent in self.agents for lever in agent.levers}

    def overdue(self, progress: float) -> bool:
        """Return whether a cycle is due at a fraction of the run, whatever the step's number."""
        return False

    def rehearse(self, snapshot: Snapshot) -> None:
        """Run a cycle and undo it."""
        # Shallow copies suffice, because agents return new states and never modify one.
        states, cycles, turns = list(self.states), self.cycles, dict(self.turns)
        self.cycle(snapshot)
        self.states, self.cycles, self.turns = states, cycles, turns

    def _votes(self, snapshot: Snapshot, proposal: Offer) -> list[Vote]:
        cast: list[Vote] = [0.0] * len(self.agents)
        for index, agent in self._voters:
            if agent.name != proposal.agent:
                cast[index] = agent.vote(self.states[index], snapshot, proposal)
        return cast

    def _verdicts(
        self, levers: LeverValues, proposals: Sequence[Offer], votes: Sequence[Sequence[Vote]]
    ) -> list[Verdict]:
        """Return one verdict for each lever with proposals, in the order of the proposals.

        A proposal is refused if it is withdrawn, no number or no option, or for a lever that this
        run does not have.
        """
        contests: dict[str, dict[int, Side]] = {}
        for offer, cast in zip(proposals, votes, strict=True):
            agent, lever, proposed = offer[:3]
            limit = self.bounds.get(lever)
            if limit is None:
                continue
            backing: Sequence[str] = ()
            if isinstance(offer, Bid):
                same, answers, backing = self.estimates(offer, proposals, cast)
                certainty = confidence(pooled(same, answers)) if same else math.nan
                least, sure = WORTHWHILE, self._needed(limit)
            else:
                certainty, least, sure = offer.confidence, self.rules.withdrawn, None
            if not certainty >= least:
                continue
            before = levers.get(lever, 0.0)  # a request is 0 in every cycle
            value = limit.allowed(proposed)
            if value != value or value == before:
                continue
            way = limit.direction(before, value)
            sides = contests.setdefault(lever, {})
            side = sides[way] if way in sides else sides.setdefault(way, Side(lever, way))
            side.propose(agent, certainty, value, before, sure)
            for name in backing:
                side.favour.setdefault(name, 0.0)
            for index, voter in self._voters:
                if (vote := cast[index]) and not isinstance(vote, Estimate):
                    side.vote(voter.name, vote)
        return [
            self._verdict(levers.get(lever, 0.0), list(sides.values()))
            for lever, sides in contests.items()
        ]

    def estimates(
        self, bid: Bid, proposals: Sequence[Offer], cast: Sequence[Vote]
    ) -> tuple[list[Bid], list[Estimate], list[str]]:
        """Return the bids for a bid's change, the answers to it, and the agents in favour.

        Bids for the same change are pooled: the first counts, the others have no bids.
        """
        same = {bid.agent: bid}
        for each in proposals:
            if each is not bid and type(each) is Bid and each[1:3] == bid[1:3]:
                if proposals.index(each) < proposals.index(bid):
                    return [], [], []
                same.setdefault(each.agent, each)
        for_it, answers = list(same), list[Estimate]()
        for index, voter in self._voters:
            if isinstance(vote := cast[index], Estimate) and voter.name not in same:
                answers.append(vote)
                if vote.gain > 0:
                    for_it.append(voter.name)
        return list(same.values()), answers, for_it

    def _needed(self, limit: Limits) -> float:
        """Return the confidence with which a bid passes."""
        return self.rules.alone if limit.sure is None else confidence(limit.sure)

    def _verdict(self, before: float, sides: Sequence[Side]) -> Verdict:
        """Return the verdict on a lever with proposals in one direction, or in several."""
        ruled = [(side.rule(self.rules), side.support, side) for side in sides]
        rule, support, side = ruled[0] if len(ruled) == 1 else strongest(ruled)
        after = before
        if rule in PASSING:
            rule, after = self._bounded(side, before, rule)
        if after != before:
            self.turns[side.lever] = self.cycles, side.direction
        return Verdict(side.lever, before, after, rule, tuple(side.favour), support)

    def _bounded(self, side: Side, before: float, rule: str) -> tuple[str, float]:
        """Return rule and value after the lever's limits: size of the change, hysteresis."""
        limit, value = self.bounds[side.lever], side.best[2]
        cycle, last = self.turns.get(side.lever, (-limit.hold, side.direction))
        if self.cycles - cycle <= limit.hold and (last != side.direction or side.lever in REQUESTS):
            return "too soon", before
        after = limit.moved(before, value)
        return ("too small" if after == before else rule), after

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON."""
        return {
            "states": list(map(list, self.states)),
            "cycles": self.cycles,
            "turns": {lever: list(turn) for lever, turn in self.turns.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.states = [
            type(start)(*kept) if kept else start
            for start, kept in zip(self.states, state["states"], strict=True)
        ]
        self.cycles = state["cycles"]
        self.turns = {lever: (cycle, way) for lever, (cycle, way) in state["turns"].items()}


def strongest(ruled: Sequence[tuple[str, float, Side]]) -> tuple[str, float, Side]:
    """Return the side that passes, or else the one with more support, with its rule and support.

    The rule is "tie" if several pass with the same support.
    """
    passing = [found for found in ruled if found[0] in PASSING]
    rule, support, side = max(passing or ruled, key=lambda found: found[1])
    if sum(found[1] == support for found in passing) > 1:
        rule = "tie"
    return rule, support, side
