"""What every agent is made of: the base class, the proposals and bids that agents exchange."""

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


class Bid(NamedTuple):
    """A proposal whose worth is estimated: nats a token that the run's end gains by it.

    The mesh derives its confidence from ``gain`` and the standard error ``sd``, together with what
    other agents answer. A bid is withdrawn if a number is not finite or ``sd`` not positive.
    """

    agent: str
    lever: str
    value: float
    gain: float
    sd: float
    reason: str


class Estimate(NamedTuple):
    """An agent's answer to another's bid, in nats with a standard error.

    added: whether it is a part that the bid leaves out, such as the price of time. Otherwise it is
        another estimate of the same gain.
    """

    gain: float
    sd: float
    added: bool = False


Offer = Proposal | Bid


class Agent:
    """One voter of the mesh.

    An agent holds constants only. What it remembers is its state, a NamedTuple of numbers, which
    the mesh passes to every call. So agents are pure functions: ranks that see the same snapshot
    decide alike, and a log can be replayed.

    Attributes:
        name: unique in a mesh.
        levers: levers and requests that it may propose to change.
        reads: signals that it reads of a snapshot.
        sets: values of ``swarm_agents`` for which a run has it.
        keeps_start: whether it needs a copy of the state before the first step.
    """

    name: ClassVar[str]
    levers: ClassVar[tuple[str, ...]]
    reads: ClassVar[tuple[str, ...]] = ()
    sets: ClassVar[tuple[str, ...]] = ("seed", "frontier")
    keeps_start: ClassVar[bool] = False

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        """Return the agent of a run, or None if the run has no use for it."""
        return cls()

    def start(self) -> Any:
        """Return the state before the first cycle."""
        return ()

    def propose(self, state: Any, snapshot: Snapshot) -> tuple[Any, Sequence[Offer]]:
        """Return the next state, and the proposals and bids of this cycle."""
        raise NotImplementedError

    def vote(self, state: Any, snapshot: Snapshot, proposal: Offer) -> float | Estimate:
        """Return the confidence for (> 0) or against (< 0) another agent's proposal; 0 abstains.

        A bid may also be answered by an estimate.
        """
        return 0.0
