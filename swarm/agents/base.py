"""What every agent is made of: the base class, and the proposals that agents exchange."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings

SURE = 0.9  # confidence of a rule that needs no second agent


class Proposal(NamedTuple):
    """An agent's proposal to set ``lever`` (or one of ``REQUESTS``) to ``value``.

    The confidence is in [0, 1]. A value or confidence that is NaN counts as withdrawn.
    """

    agent: str
    lever: str
    value: float
    confidence: float
    reason: str


class Agent:
    """One voter of the mesh.

    An agent holds constants only. What it remembers is its state, a NamedTuple of numbers, which
    the mesh passes to every call. So agents are pure functions: ranks that see the same snapshot
    decide alike, and a log can be replayed.

    Attributes:
        name: unique in a mesh.
        levers: levers and requests that it may propose to change.
        reads: signals that it reads of a snapshot.
    """

    name: ClassVar[str]
    levers: ClassVar[tuple[str, ...]]
    reads: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        """Return the agent of a run, or None if the run has no use for it."""
        return cls()

    def start(self) -> Any:
        """Return the state before the first cycle."""
        return ()

    def propose(self, state: Any, snapshot: Snapshot) -> tuple[Any, Sequence[Proposal]]:
        """Return the next state and the proposals of this cycle."""
        raise NotImplementedError

    def vote(self, state: Any, snapshot: Snapshot, proposal: Proposal) -> float:
        """Return the confidence for (> 0) or against (< 0) another agent's proposal; 0 abstains."""
        return 0.0
