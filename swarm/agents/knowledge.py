"""The agent that tapers the knowledge graph's weight in the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from swarm.agents.base import SURE, Agent, Proposal
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings


@dataclass(frozen=True)
class KgWeight(Agent):
    """Lowers the knowledge graph's weight in the loss step by step over the run.

    Tokens with a high score weigh more at first; at the end all tokens weigh nearly the same.

    Attributes:
        weight: at the start of the run.
        taper: (fraction of the run, factor on the weight until then), in order.
        last: factor on the weight after the last of them.
    """

    name: ClassVar[str] = "kg"
    levers: ClassVar[tuple[str, ...]] = ("kg_weight",)
    sets: ClassVar[tuple[str, ...]] = ("seed",)

    weight: float = 0.5
    taper: tuple[tuple[float, float], ...] = ((0.15, 1.0), (0.40, 0.8), (0.70, 0.6))
    last: float = 0.2

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        weight = settings.kg_loss_weight if settings.kg_scores else 0.0
        return cls(weight) if weight else None

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        factor = self.last
        for until, held in self.taper:
            if snapshot.progress < until:
                factor = held
                break
        weight = factor * self.weight
        if weight == snapshot.levers["kg_weight"]:
            return state, ()
        return state, (Proposal(self.name, "kg_weight", weight, SURE, "taper"),)
