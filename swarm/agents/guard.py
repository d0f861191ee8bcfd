"""The agent that watches health, and keeps copies to return to from the first step on."""

from dataclasses import dataclass
from typing import ClassVar

from swarm.agents.base import Offer
from swarm.agents.health import GradientHealth, Health
from swarm.levers import FIELDS
from swarm.telemetry import Snapshot


@dataclass(frozen=True)
class Guard(GradientHealth):
    """Reacts as the health agent does, in a run whose first state is kept.

    So a run that diverges before its first calm windows has a state to return to. In an alarm the
    guard objects to another variant.

    Attributes:
        lost: fraction of NaN steps in a window that raises the alarm; fewer only cost their time.
        copies: windows after which a calm run keeps a further copy; a longer one goes on at the
            distance of the last two.
    """

    name: ClassVar[str] = "guard"
    sets: ClassVar[tuple[str, ...]] = ("frontier",)
    keeps_start: ClassVar[bool] = True

    lost: float = 0.75
    copies: tuple[int, ...] = (2, 4, 12)

    def _keeps(self, state: Health) -> bool:
        *_, before, last = self.copies
        later = state.seen - last
        return state.seen in self.copies or (later > 0 and later % (last - before) == 0)

    def vote(self, state: Health, snapshot: Snapshot, proposal: Offer) -> float:
        if proposal.lever in FIELDS:
            return 0.0 if state.calm else -0.7
        return super().vote(state, snapshot, proposal)
