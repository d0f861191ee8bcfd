"""The agent that takes a lowered rate back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from swarm.agents.base import SURE, Agent, Proposal
from swarm.telemetry import Snapshot


class Lowered(NamedTuple):
    """The recovery agent's state.

    factor: of the rates at the last cycle.
    quiet: windows since it last fell.
    falls: times that it fell; falls in consecutive windows are one.
    """

    factor: float = 1.0
    quiet: int = 1
    falls: int = 0


@dataclass(frozen=True)
class Recovery(Agent):
    """Doubles a lowered rate once nobody has lowered it for a while.

    What made the guard lower it mostly passes, and a lowered rate costs as much as lost steps. Each
    further fall doubles the wait, because the rate itself may be the trouble.

    Attributes:
        patience: windows after the first fall; the guard objects before as many calm ones.
    """

    name: ClassVar[str] = "recovery"
    levers: ClassVar[tuple[str, ...]] = ("lr_factor",)
    sets: ClassVar[tuple[str, ...]] = ("frontier",)

    patience: int = 3

    def start(self) -> Lowered:
        return Lowered()

    def propose(self, state: Lowered, snapshot: Snapshot) -> tuple[Lowered, Sequence[Proposal]]:
        factor, (before, quiet, falls) = snapshot.levers["lr_factor"], state
        if factor < before:
            falls, quiet = falls + (quiet > 0), 0
        else:
            quiet += 1
        if factor < 1 and quiet >= self.patience * 2 ** (falls - 1) - 1:
            rise = Proposal(self.name, "lr_factor", min(1.0, 2 * factor), SURE, "quiet")
            return Lowered(factor, quiet, falls), (rise,)
        return Lowered(factor, quiet, falls), ()
