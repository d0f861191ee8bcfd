"""The agent that switches recurrence on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from errors import InputError
from swarm.agents.base import Agent, Bid, Offer
from swarm.levers import STAGED
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings


@dataclass(frozen=True)
class Loops(Agent):
    """Bids for the fewest further passes at first, and later for those of the exported network.

    Attributes:
        options: numbers of further passes to choose from.
        whole: those of the exported network.
        until: fraction of the run with the fewest.
        worth: nats at the end that an exported network gains if its passes are trained.
        doubt: standard error of that, as a fraction of it.
        harm: standard error, in nats at the end, of what fewer passes cost early.
    """

    name: ClassVar[str] = "loops"
    levers: ClassVar[tuple[str, ...]] = ("loops",)
    sets: ClassVar[tuple[str, ...]] = ("frontier",)

    options: tuple[int, ...] = ()
    whole: int = 2
    until: float = 0.35
    worth: float = 0.1
    doubt: float = 0.2
    harm: float = 0.002

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        """Return it for a run with numbers of passes to choose from.

        Raises:
            InputError: that of the exported network is none of them.
        """
        options = tuple(sorted(settings.swarm_loops))
        if not options:
            return None
        if settings.num_loops not in options:
            raise InputError(f"swarm_loops has no {settings.num_loops}, which is num_loops; add it")
        return cls(options, settings.num_loops)

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Offer]]:
        held = snapshot.levers["loops"]
        now = self.whole if held == STAGED else held
        if snapshot.progress >= self.until and now < self.whole:
            gain, reason = self.worth, "as exported"
            return state, (Bid(self.name, "loops", self.whole, gain, self.doubt * gain, reason),)
        if snapshot.progress < self.until and held == STAGED and self.options[0] < now:
            return state, (Bid(self.name, "loops", self.options[0], 0.0, self.harm, "few first"),)
        return state, ()
