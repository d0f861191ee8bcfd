"""The mesh: agents propose changes of levers, vote on each other's, and rules decide.

Everything is a function of agents' states and the snapshot, in plain Python floats, so ranks that
see the same snapshot decide alike without a word, and a log can be replayed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from swarm.telemetry import UNREACHED, LeverValues, Snapshot

if TYPE_CHECKING:
    from settings import Settings

PASSING = ("agreed", "alone")
SURE = 0.9  # confidence of an agent whose rule needs no second
# What agents may ask the loop to do once, decided like a change of a lever from 0 to 1: copy the
# weights and moments as a state to return to, and return to it.
KEEP, ROLLBACK = REQUESTS = ("keep", "rollback")


class Proposal(NamedTuple):
    """An agent's wish that ``lever`` (or one of ``REQUESTS``) be ``value``; confidence in [0, 1].

    A value or confidence that is no number counts as withdrawn.
    """

    agent: str
    lever: str
    value: float
    confidence: float
    reason: str


class Agent:
    """One voice. It holds constants only: what it remembers is its state, a NamedTuple of numbers.

    Attributes:
        name: unique in a mesh.
        levers: that it may propose to change, requests included.
    """

    name: ClassVar[str]
    levers: ClassVar[tuple[str, ...]]

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        """One for a run, or None where the run has no use for it."""
        return cls()

    def start(self) -> Any:
        """The state before the first cycle."""
        return ()

    def propose(self, state: Any, snapshot: Snapshot) -> tuple[Any, Sequence[Proposal]]:
        """The next state, and what it wishes: a pure function."""
        raise NotImplementedError

    def vote(self, state: Any, snapshot: Snapshot, proposal: Proposal) -> float:
        """On another's proposal: confidence for (> 0) or against (< 0) it; 0 abstains. Pure."""
        return 0.0


@dataclass(frozen=True)
class Rules:
    """When a proposal passes.

    Attributes:
        alone: confidence at which one agent needs no second.
        objection: confidence of a vote against that stops one agent alone.
        withdrawn: below this on its own proposal an agent withdraws it; a vote for that is weaker
            does not make a second.
    """

    alone: float = 0.85
    objection: float = 0.6
    withdrawn: float = 0.3


class Limit(NamedTuple):
    """Bounds of a lever: range, largest and smallest change at once, and the cycles that must
    pass before it may turn back (hysteresis), or a request be granted again."""

    low: float
    high: float
    most: float
    least: float
    hold: int


def limits(start: LeverValues) -> dict[str, Limit]:
    """Bounds of all levers of a run that starts with ``start``: a clip is relative to its own."""
    clip = start.clip
    return {
        KEEP: Limit(0.0, 1.0, 1.0, 1.0, 0),
        ROLLBACK: Limit(0.0, 1.0, 1.0, 1.0, 3),
        "clip": Limit(clip / 16, clip, clip / 2, clip / 64, 2),
        "kg_weight": Limit(0.0, max(1.0, start.kg_weight), 0.5, 0.001, 2),
        "lr_factor": Limit(1 / 16, 1.0, 0.5, 1 / 64, 2),
        "mtp_weight": Limit(0.0, max(1.0, start.mtp_weight), 0.5, 0.001, 2),
        "qat": Limit(0.0, 1.0, 1.0, 1.0, 1000),
        "skip_norm": Limit(1e-6, UNREACHED, UNREACHED, 0.0, 2),
    }


class Verdict(NamedTuple):
    """What became of the proposals for one lever; ``after`` is ``before`` unless one passed.

    ``rule`` is one of ``PASSING``, or what stopped it; ``agents`` were for it, ``support`` is the
    sum of their confidences less those of the agents against it.
    """

    lever: str
    before: float
    after: float
    rule: str
    agents: tuple[str, ...]
    support: float


class Cycle(NamedTuple):
    """All of one cycle.

    ``votes``: for each proposal, by agent in the mesh's order; ``levers``: as decided;
    ``changed``: levers and requests that a proposal has passed for, with their values.
    """

    snapshot: Snapshot
    proposals: Sequence[Proposal]
    votes: Sequence[Sequence[float]]
    verdicts: Sequence[Verdict]
    levers: LeverValues
    changed: Mapping[str, float]

    @property
    def keep(self) -> bool:
        """Whether the loop is to copy the state, to return to it; never one that it leaves."""
        return KEEP in self.changed and not self.rollback

    @property
    def rollback(self) -> bool:
        """Whether the loop is to return to the state that it copied last."""
        return ROLLBACK in self.changed


class Side:
    """The proposals for a lever in one direction, who is for them, and how strong the case is."""

    __slots__ = ("against", "best", "favour", "lever", "up")

    def __init__(self, lever: str, up: bool) -> None:
        self.lever, self.up = lever, up
        self.best = (-1.0, 0.0, 0.0)  # confidence, -|change|, value
        self.favour: dict[str, float] = {}
        self.against: dict[str, float] = {}

    def propose(self, agent: str, confidence: float, value: float, before: float) -> None:
        """Take in a proposal; of several the surest counts, and of those the smallest change."""
        ranked = (confidence, -abs(value - before), value)
        if ranked > self.best:
            self.best = ranked
        self.vote(agent, confidence)

    def vote(self, agent: str, vote: float) -> None:
        """Take in a vote, or the confidence of a proposer: an agent counts once."""
        side, weight = (self.favour, vote) if vote > 0 else (self.against, -vote)
        if weight > side.get(agent, 0.0):
            side[agent] = weight

    def rule(self, rules: Rules) -> str:
        """By which it passes, or what stops it."""
        if len(self.favour) > 1 and sum(c >= rules.withdrawn for c in self.favour.values()) > 1:
            return "agreed"
        if self.best[0] < rules.alone:
            return "no second"
        if self.against and max(self.against.values()) >= rules.objection:
            return "objection"
        return "alone"

    @property
    def support(self) -> float:
        """Confidences for less those against."""
        return sum(self.favour.values()) - sum(self.against.values())


class Mesh:
    """Agents around one table.

    Args:
        agents: in a fixed order, the same on every rank.
        bounds: of each lever and request that is proposed.
        rules: when a proposal passes.

    Attributes:
        cycles: so far.
    """

    def __init__(
        self, agents: Sequence[Agent], bounds: Mapping[str, Limit], rules: Rules | None = None
    ) -> None:
        self.agents, self.bounds, self.rules = tuple(agents), bounds, rules or Rules()
        self.states = [agent.start() for agent in self.agents]
        self.cycles = 0
        self.turns: dict[str, tuple[int, bool]] = {}  # lever: cycle of its last change; was it up
        # A cycle is to cost microseconds: who never votes is not asked.
        self._voters = [
            (place, agent)
            for place, agent in enumerate(self.agents)
            if type(agent).vote is not Agent.vote
        ]

    def cycle(self, snapshot: Snapshot) -> Cycle:
        """Hear all agents, decide, and remember."""
        self.cycles += 1
        proposals: list[Proposal] = []
        states = self.states
        for place, agent in enumerate(self.agents):
            states[place], wishes = agent.propose(states[place], snapshot)
            if wishes:
                proposals.extend(wishes)
        if not proposals:
            return Cycle(snapshot, (), (), (), snapshot.levers, {})
        votes = [self._votes(snapshot, proposal) for proposal in proposals]
        verdicts = self._verdicts(snapshot.levers, proposals, votes)
        levers, changed, moved = snapshot.levers, {}, {}
        for lever, before, after, *_ in verdicts:
            if after != before:
                changed[lever] = after
                if lever not in REQUESTS:
                    moved[lever] = after
        if moved:
            levers = levers._replace(**moved)
        return Cycle(snapshot, proposals, votes, verdicts, levers, changed)

    def _votes(self, snapshot: Snapshot, proposal: Proposal) -> list[float]:
        cast = [0.0] * len(self.agents)
        for place, agent in self._voters:
            if agent.name != proposal.agent:
                cast[place] = agent.vote(self.states[place], snapshot, proposal)
        return cast

    def _verdicts(
        self, levers: LeverValues, proposals: Sequence[Proposal], votes: Sequence[Sequence[float]]
    ) -> list[Verdict]:
        """One for each lever that somebody wishes to change, in the order of proposals."""
        contests: dict[str, dict[bool, Side]] = {}
        for (agent, lever, wished, confidence, _), cast in zip(proposals, votes, strict=True):
            before = value_of(lever, levers)
            limit = self.bounds[lever]
            value = min(max(wished, limit.low), limit.high)
            withdrawn = not confidence >= self.rules.withdrawn or value != value
            if withdrawn or value == before:
                continue
            up = value > before
            sides = contests.setdefault(lever, {})
            side = sides[up] if up in sides else sides.setdefault(up, Side(lever, up))
            side.propose(agent, confidence, value, before)
            for place, voter in self._voters:
                if cast[place]:
                    side.vote(voter.name, cast[place])
        return [
            self._verdict(value_of(lever, levers), list(sides.values()))
            for lever, sides in contests.items()
        ]

    def _verdict(self, before: float, sides: Sequence[Side]) -> Verdict:
        """Of a lever for which there are proposals in one direction, or in both."""
        ruled = [(side.rule(self.rules), side.support, side) for side in sides]
        rule, support, side = ruled[0] if len(ruled) == 1 else strongest(ruled)
        after = before
        if rule in PASSING:
            rule, after = self._bounded(side, before, rule)
        if after != before:
            self.turns[side.lever] = self.cycles, side.up
        return Verdict(side.lever, before, after, rule, tuple(side.favour), support)

    def _bounded(self, side: Side, before: float, rule: str) -> tuple[str, float]:
        """The rule and value that the lever's rate limit and hysteresis leave."""
        limit, value = self.bounds[side.lever], side.best[2]
        cycle, was_up = self.turns.get(side.lever, (-limit.hold, side.up))
        if self.cycles - cycle <= limit.hold and (was_up != side.up or side.lever in REQUESTS):
            return "too soon", before
        if abs(value - before) < limit.least:
            return "too small", before
        return rule, min(max(value, before - limit.most), before + limit.most)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON holds it."""
        return {
            "states": list(map(list, self.states)),
            "cycles": self.cycles,
            "turns": {lever: list(turn) for lever, turn in self.turns.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state`` gave."""
        self.states = [
            type(start)(*kept) if kept else start
            for start, kept in zip(self.states, state["states"], strict=True)
        ]
        self.cycles = state["cycles"]
        self.turns = {lever: (cycle, up) for lever, (cycle, up) in state["turns"].items()}


def strongest(ruled: Sequence[tuple[str, float, Side]]) -> tuple[str, float, Side]:
    """Of two sides, each with its rule and support, the one that passes, or else has more support;
    the rule is "tie" where both pass alike."""
    passing = [found for found in ruled if found[0] in PASSING]
    rule, support, side = max(passing or ruled, key=lambda found: found[1])
    if len(passing) == 2 and passing[0][1] == passing[1][1]:
        rule = "tie"
    return rule, support, side


def value_of(lever: str, levers: LeverValues) -> float:
    """A lever's value now; a request is at 0 until it is granted, and then again."""
    return 0.0 if lever in REQUESTS else getattr(levers, lever)
