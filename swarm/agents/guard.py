"""The agent that watches health, and keeps copies to return to from the first step on."""

from dataclasses import dataclass
from typing import ClassVar

from swarm.agents.base import Offer
from swarm.agents.health import GradientHealth, Health
from swarm.levers import FIELDS
from swarm.telemetry import Snapshot

LATER = 16


@dataclass(frozen=True)
class Guard(GradientHealth):
    """Reacts as the health agent does, in a run whose first state is kept.

    So a run that diverges before its first calm windows has a state to return to. In an alarm the
    guard objects to another variant.

    Attributes:
        lost: fraction of NaN steps in a window that raises the alarm; fewer only cost their time.
        copies: windows after which a calm run keeps a further copy; a longer one goes on with one
            every ``LATER`` windows.
    """

    name: ClassVar[str] = "guard"
    sets: ClassVar[tuple[str, ...]] = ("frontier",)
    keeps_start: ClassVar[bool] = True

    lost: float = 0.75
    copies: tuple[int, ...] = (2, 4, 8, 16, 32, 48)

    def _keeps(self, state: Health) -> bool:
        seen = state.seen
        return seen in self.copies or (seen > self.copies[-1] and seen % LATER == 0)

    def vote(self, state: Health, snapshot: Snapshot, proposal: Offer) -> float:
        if proposal.lever in FIELDS:
            return 0.0 if state.calm else -0.7
        return super().vote(state, snapshot, proposal)
