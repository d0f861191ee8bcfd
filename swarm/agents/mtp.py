"""The agent that lowers the weight of the multi-token-prediction loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from swarm.agents.base import SURE, Agent, Proposal
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings


@dataclass(frozen=True)
class MtpWeight(Agent):
    """Halves the weight of the MTP loss near the end, because only the next token is scored.

    Attributes:
        weight: at the start of the run.
        from_progress: fraction of the run after which the weight is halved.
    """

    name: ClassVar[str] = "mtp"
    levers: ClassVar[tuple[str, ...]] = ("mtp_weight",)
    sets: ClassVar[tuple[str, ...]] = ("seed",)

    weight: float = 0.1
    from_progress: float = 0.75

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        weight = settings.mtp_loss_weight if settings.mtp_num_heads else 0.0
        return cls(weight) if weight else None

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        half = self.weight / 2
        if snapshot.progress < self.from_progress or snapshot.levers["mtp_weight"] <= half:
            return state, ()
        return state, (Proposal(self.name, "mtp_weight", half, SURE, "end of the run"),)
