"""The agent that watches how many steps the momentum remembers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarm.agents.base import SURE, Agent, Offer, Proposal
from swarm.telemetry import Snapshot


@dataclass(frozen=True)
class Memory(Agent):
    """Bounds what Muon's scheduled momentum remembers: ``1 / (1 - momentum)`` steps.

    Known runs remember 10 to 100 steps, and the longer ones more. So a tenth of a run is too much,
    and it remembers half of that; a few steps are too little.

    Attributes:
        least: steps that it remembers at least.
        usual: steps that it remembers in place of fewer.
        most: steps that it may remember in a run of any length.
        share: of the run's steps that it may remember, if they are more.
    """

    name: ClassVar[str] = "memory"
    levers: ClassVar[tuple[str, ...]] = ("memory",)
    reads: ClassVar[tuple[str, ...]] = ("momentum",)
    sets: ClassVar[tuple[str, ...]] = ("frontier",)

    least: float = 4.0
    usual: float = 20.0
    most: float = 50.0
    share: float = 0.1

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Offer]]:
        momentum, held = snapshot.signals.get("momentum"), snapshot.levers["memory"]
        if momentum is None or snapshot.lr_scale < 1:  # a cooldown may follow the rate
            return state, ()
        longest = max(self.most, self.share * snapshot.step / snapshot.progress)
        border = longest * (1.25 if held == 1 else 0.8)  # a run's length is not known exactly
        new, wanted = 1 - momentum, 1.0  # the share of the momentum that a step replaces
        if new > 1 / self.least:
            wanted = self.usual * new
        elif new < 1 / border:
            wanted = longest / 2 * new
        if abs(wanted - held) <= held / 4:
            return state, ()
        return state, (Proposal(self.name, "memory", wanted, SURE, "memory"),)
