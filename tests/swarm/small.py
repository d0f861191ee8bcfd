"""Snapshots and meshes for tests, with only what a test is about said."""

from collections.abc import Sequence
from typing import Any

from settings.load import load_settings
from swarm.agents.base import Agent, Bid, Offer, Proposal
from swarm.levers import limits, start_values
from swarm.mesh import Mesh, Rules
from swarm.steering import Steering
from swarm.telemetry import Snapshot

# Of a run with a knowledge graph whose clip starts at 0.4.
SETTINGS = load_settings(["--kg-scores", "wordnet", "--grad-clip-norm", "0.4"], {})
LEVERS = start_values(SETTINGS)
# A run with all agents of this set, whose clock ends it.
FRONTIER = ["--swarm-agents", "frontier", "--wallclock", "60", "--iterations", "1000000"]
FRONTIER += ["--swarm-windows", "512,0", "--swarm-loops", "0,2", "--swarm-heads", "0"]
FRONTIER += ["--loop-layers", "3,4", "--num-loops", "2"]
SIGNALS = {
    "loss": 2.0,
    "velocity": 0.0,
    "noise": 0.003,
    "lowest": 2.0,
    "gradient_norm": 0.3,
    "gradient_peak": 0.4,
    "int6_error": None,
}
CALM = Snapshot(
    step=800,
    progress=0.3,
    lr_scale=1.0,
    nonfinite=0,
    arrived=80,
    kept=None,
    levers=LEVERS,
    signals=SIGNALS,
)


def snapshot(**changes: Any) -> Snapshot:
    """A calm one but for what is given; levers and signals by name."""
    levers = LEVERS | {name: changes.pop(name) for name in LEVERS if name in changes}
    signals = SIGNALS | {name: changes.pop(name) for name in SIGNALS if name in changes}
    return CALM._replace(levers=levers, signals=signals, **changes)


class Scripted(Agent):
    """Says what a test has it say: proposals (lever, value, confidence) and votes by lever."""

    levers = tuple(LEVERS)

    def __init__(self, name: str, *proposals: tuple[str, float, float], **votes: float) -> None:
        self.called, self.proposals, self.votes = name, proposals, votes

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.called

    def propose(self, state: Any, snapshot: Snapshot) -> tuple[Any, Sequence[Proposal]]:
        return state, [Proposal(self.name, *proposal, "script") for proposal in self.proposals]

    def vote(self, state: Any, snapshot: Snapshot, proposal: Offer) -> float:
        return self.votes.get(proposal.lever, 0.0)


def proposed(agent: Agent, **changes: Any) -> tuple[float, str] | None:
    """(value, reason) of the only proposal after one window; None if there is none."""
    _, proposals = agent.propose(agent.start(), snapshot(**changes))
    return (proposals[0].value, proposals[0].reason) if proposals else None


def bids(agent: Agent, seen: Snapshot) -> list[Bid]:
    """The bids of an agent's first cycle, which makes no other proposals."""
    found = [each for each in agent.propose(agent.start(), seen)[1] if isinstance(each, Bid)]
    assert len(found) == len(agent.propose(agent.start(), seen)[1])
    return found


def mesh(*agents: Agent, rules: Rules | None = None) -> Mesh:
    """A mesh with the bounds of a run that starts with ``LEVERS``."""
    return Mesh(agents, limits(SETTINGS), rules)


def steering(*arguments: str) -> Steering:
    """The swarm of preset ``seed``, with the graph's weights on, under other settings."""
    made = Steering.of(load_settings(["--kg-scores", "wordnet", *arguments], {}))
    assert made is not None
    return made
