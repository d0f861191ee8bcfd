"""The mesh: agents propose changes of levers, vote on each other's, and rules decide.

Everything is a function of agents' states and the snapshot, in plain Python floats, so ranks that
see the same snapshot decide alike without a word, and a log can be replayed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from swarm.snapshot import UNREACHED, LeverValues, Snapshot

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
    """All of one cycle. ``votes``: for each proposal, by agent in the mesh's order; ``levers``:
    as decided."""

    snapshot: Snapshot
    proposals: tuple[Proposal, ...]
    votes: tuple[tuple[float, ...], ...]
    verdicts: tuple[Verdict, ...]
    levers: LeverValues

    @property
    def changed(self) -> dict[str, float]:
        """Levers and requests that a proposal has passed for, with their values."""
        return {v.lever: v.after for v in self.verdicts if v.after != v.before}

    @property
    def keep(self) -> bool:
        """Whether the loop is to copy the state, to return to it."""
        return KEEP in self.changed

    @property
    def rollback(self) -> bool:
        """Whether the loop is to return to the state that it copied last."""
        return ROLLBACK in self.changed


class Side:
    """The proposals for a lever in one direction, who is for them, and how strong the case is."""

    __slots__ = ("best", "confidence", "opposed")

    def __init__(self) -> None:
        self.best: tuple[float, float, float] | None = None  # confidence, -|change|, value
        self.confidence: dict[str, float] = {}
        self.opposed: dict[str, float] = {}

    def add(self, proposal: Proposal, value: float, before: float) -> None:
        """Take in a proposal; of several the surest counts, and of those the smallest change."""
        ranked = (proposal.confidence, -abs(value - before), value)
        self.best = ranked if self.best is None else max(self.best, ranked)
        self.backed(proposal.agent, proposal.confidence)

    def backed(self, agent: str, vote: float) -> None:
        """Take in a vote, or the confidence of a proposer: an agent counts once."""
        if vote > 0:
            self.confidence[agent] = max(vote, self.confidence.get(agent, 0.0))
        elif vote < 0:
            self.opposed[agent] = max(-vote, self.opposed.get(agent, 0.0))

    def rule(self, rules: Rules) -> str:
        """By which it passes, or what stops it."""
        agreeing = sum(c >= rules.withdrawn for c in self.confidence.values())
        if agreeing >= 2:
            return "agreed"
        assert self.best is not None
        if self.best[0] < rules.alone:
            return "no second"
        if max(self.opposed.values(), default=0.0) >= rules.objection:
            return "objection"
        return "alone"

    @property
    def support(self) -> float:
        """Confidences for less those against."""
        return sum(self.confidence.values()) - sum(self.opposed.values())


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
        self.states = self._starts()
        self.cycles = 0
        self.turns: dict[str, tuple[int, bool]] = {}  # lever: cycle of its last change; was it up

    def _starts(self) -> list[Any]:
        return [agent.start() for agent in self.agents]

    def cycle(self, snapshot: Snapshot) -> Cycle:
        """Hear all agents, decide, and remember."""
        self.cycles += 1
        proposals: list[Proposal] = []
        states = self.states
        for index, agent in enumerate(self.agents):
            states[index], wishes = agent.propose(states[index], snapshot)
            if wishes:
                proposals.extend(wishes)
        votes, verdicts, levers = (), (), snapshot.levers
        if proposals:
            votes = tuple([self._votes(snapshot, proposal) for proposal in proposals])
            verdicts = self._verdicts(snapshot.levers, proposals, votes)
            changed = {
                verdict.lever: verdict.after
                for verdict in verdicts
                if verdict.after != verdict.before and verdict.lever not in REQUESTS
            }
            if changed:
                levers = levers._replace(**changed)
        return Cycle(snapshot, tuple(proposals), votes, verdicts, levers)

    def _votes(self, snapshot: Snapshot, proposal: Proposal) -> tuple[float, ...]:
        return tuple(
            [
                0.0 if agent.name == proposal.agent else agent.vote(state, snapshot, proposal)
                for agent, state in zip(self.agents, self.states, strict=True)
            ]
        )

    def _verdicts(
        self,
        levers: LeverValues,
        proposals: Sequence[Proposal],
        votes: Sequence[tuple[float, ...]],
    ) -> tuple[Verdict, ...]:
        """One for each lever that somebody wishes to change, in the order of proposals."""
        sides: dict[str, dict[bool, Side]] = {}
        for proposal, cast in zip(proposals, votes, strict=True):
            before = value_of(proposal.lever, levers)
            low, high = self.bounds[proposal.lever][:2]
            value = min(max(proposal.value, low), high)
            withdrawn = not proposal.confidence >= self.rules.withdrawn or value != value
            if withdrawn or value == before:
                continue
            side = sides.setdefault(proposal.lever, {}).setdefault(value > before, Side())
            side.add(proposal, value, before)
            for agent, vote in zip(self.agents, cast, strict=True):
                side.backed(agent.name, vote)
        return tuple(
            [self._verdict(lever, value_of(lever, levers), sides[lever]) for lever in sides]
        )

    def _verdict(self, lever: str, before: float, sides: Mapping[bool, Side]) -> Verdict:
        """Of a lever whose sides are down (False) and up (True)."""
        passing = {up: side for up, side in sides.items() if side.rule(self.rules) in PASSING}
        up, side = max((passing or sides).items(), key=lambda item: item[1].support)
        agents, support = tuple(side.confidence), side.support
        rule, after = side.rule(self.rules), before
        if len(passing) == 2 and passing[True].support == passing[False].support:
            rule = "tie"
        elif passing:
            assert side.best is not None
            rule, after = self._bounded(lever, before, side.best[2], up, rule)
        if after != before:
            self.turns[lever] = self.cycles, up
        return Verdict(lever, before, after, rule, agents, support)

    def _bounded(
        self, lever: str, before: float, value: float, up: bool, rule: str
    ) -> tuple[str, float]:
        """The rule and value that the lever's rate limit and hysteresis leave."""
        _, _, most, least, hold = self.bounds[lever]
        cycle, was_up = self.turns.get(lever, (-hold, up))
        if self.cycles - cycle <= hold and (was_up != up or lever in REQUESTS):
            return "too soon", before
        if abs(value - before) < least:
            return "too small", before
        return rule, min(max(value, before - most), before + most)

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
            for start, kept in zip(self._starts(), state["states"], strict=True)
        ]
        self.cycles = state["cycles"]
        self.turns = {lever: (cycle, up) for lever, (cycle, up) in state["turns"].items()}


def value_of(lever: str, levers: LeverValues) -> float:
    """A lever's value now; a request is at 0 until it is granted, and then again."""
    return 0.0 if lever in REQUESTS else getattr(levers, lever)
