"""The agent that suspects the learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarm.agents.base import Bid, Offer
from swarm.agents.learning_rate import LearningRate, Trend
from swarm.telemetry import Snapshot

UNSURE = 0.5  # standard errors: a suspicion alone changes nothing


@dataclass(frozen=True)
class Rate(LearningRate):
    """Suspects the rate while the loss rises.

    A suspicion is a bid that passes only if the guard is alarmed, too. A plateau is none, because a
    lower rate always lowers the loss at once. Another agent raises the rate again.
    """

    name: ClassVar[str] = "rate"
    sets: ClassVar[tuple[str, ...]] = ("frontier",)

    plateau: int = 1_000_000

    def propose(  # pyright: ignore[reportIncompatibleMethodOverride] - it bids, too
        self, state: Trend, snapshot: Snapshot
    ) -> tuple[Trend, Sequence[Offer]]:
        state, proposals = super().propose(state, snapshot)
        if not proposals:
            return state, ()
        seen, factor = snapshot.signals, snapshot.levers["lr_factor"]
        rise = seen["loss"] - seen["lowest"]
        return state, [
            Bid(self.name, each.lever, each.value, UNSURE * rise, rise, "suspicion")
            for each in proposals
            if each.value < factor
        ]
