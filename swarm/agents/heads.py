"""The agent that switches the multi-token-prediction heads off when their time is worth more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from errors import InputError
from swarm.agents.base import Agent, Bid, Offer
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings


@dataclass(frozen=True)
class Heads(Agent):
    """Bids what a run loses without its MTP heads; the pace agent adds the time that it gains.

    What they still bring falls with the square of what is left of the run. Heads that are off stay
    off, because the others have trained on without them.

    Attributes:
        worth: nats that the heads bring over a whole run: 0.003 bpb in a sprint.
        doubt: standard error of that, as a fraction of it.
    """

    name: ClassVar[str] = "heads"
    levers: ClassVar[tuple[str, ...]] = ("heads",)
    sets: ClassVar[tuple[str, ...]] = ("frontier",)

    worth: float = 0.0055
    doubt: float = 0.5

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        """Return it for a run with MTP heads and numbers of them to choose from.

        Raises:
            InputError: none of them is 0, the only one that it bids.
        """
        if not settings.mtp_num_heads or not settings.swarm_heads:
            return None
        if 0 not in settings.swarm_heads:
            if settings.resume:
                return None  # the run began so
            raise InputError("swarm_heads has no 0, the only number that agents choose; add it")
        return cls()

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Offer]]:
        if snapshot.levers["heads"] == 0:
            return state, ()
        loss = self.worth * (1 - snapshot.progress) ** 2
        return state, (Bid(self.name, "heads", 0, -loss, self.doubt * loss, "price of heads"),)
