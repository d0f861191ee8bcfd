"""The agent that lowers and raises the learning rate by the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from swarm.agents.base import SURE, Agent, Offer, Proposal
from swarm.levers import ROLLBACK
from swarm.telemetry import Snapshot


class Trend(NamedTuple):
    """The learning-rate agent's state.

    low: loss of the last window that was clearly lower than those before it; 0: none yet.
    flat: windows in a row since then.
    well: windows in a row without a rise.
    ceiling: highest rate factor that plateaus leave.
    """

    low: float = 0.0
    flat: int = 0
    well: int = 0
    ceiling: float = 1.0


@dataclass(frozen=True)
class LearningRate(Agent):
    """Compares the loss's velocity with its noise.

    Halves the rate while the loss rises, lowers it on a plateau of the constant phase, and raises
    it again once the loss has recovered.

    Attributes:
        noises: a change of fewer standard errors of the loss counts as flat.
        least: a change of a smaller fraction of the loss counts as flat.
        away: fraction over the lowest loss that counts as rising; up to a quarter of it counts as
            recovered.
        plateau: windows without a clearly lower loss that make a plateau. It takes many, because
            the loss of a healthy run falls by less than its noise from window to window.
        steepest: lowest rate factor that plateaus lead to.
        patience: windows that make a recovery.
        returning: fraction of its rise by which a loss that recovers by itself falls in a window.
    """

    name: ClassVar[str] = "lr"
    levers: ClassVar[tuple[str, ...]] = ("lr_factor",)
    reads: ClassVar[tuple[str, ...]] = ("loss", "lowest", "noise", "velocity")
    sets: ClassVar[tuple[str, ...]] = ("seed",)

    noises: float = 1.5
    least: float = 2e-4
    away: float = 0.02
    plateau: int = 12
    steepest: float = 0.5
    patience: int = 3
    returning: float = 0.1

    def start(self) -> Trend:
        return Trend()

    def propose(self, state: Trend, snapshot: Snapshot) -> tuple[Trend, Sequence[Proposal]]:
        if snapshot.arrived == snapshot.nonfinite:
            return state, ()
        seen, factor = snapshot.signals, snapshot.levers["lr_factor"]
        loss, lowest = seen["loss"], seen["lowest"]
        fell = self._fell(snapshot)
        rise = loss - lowest
        if not fell and rise > max(6 * seen["noise"], self.away * lowest):
            proposals = self._proposals(factor / 2, 0.7, "rising loss")
            return Trend(state.low, 0, 0, state.ceiling), proposals
        well = state.well + 1 if fell or rise < self.away / 4 * lowest else 0
        lowered = factor < state.ceiling
        low, flat = state.low, state.flat + 1
        if loss < low - self._least(seen) or low < lowest:  # QAT switched and lowest restarted
            low, flat = loss, 0
        if lowered or snapshot.lr_scale < 1:
            flat = 0
        if flat >= self.plateau and 0.7 * factor >= self.steepest:
            return Trend(low, 0, 0, 0.7 * factor), self._proposals(0.7 * factor, SURE, "plateau")
        trend = Trend(low, flat, well, state.ceiling)
        if lowered and well >= self.patience:
            raised = min(state.ceiling, 1.5 * factor)
            return trend, self._proposals(raised, min(SURE, 0.5 + 0.05 * well), "well again")
        return trend, ()

    def _fell(self, snapshot: Snapshot) -> bool:
        seen = snapshot.signals
        return -seen["velocity"] * snapshot.arrived > self._least(seen)

    def _least(self, seen: Mapping[str, float]) -> float:
        return max(self.noises * seen["noise"], self.least * seen["loss"])

    def _proposals(self, value: float, confidence: float, reason: str) -> tuple[Proposal, ...]:
        return (Proposal(self.name, "lr_factor", value, confidence, reason),)

    def vote(self, state: Trend, snapshot: Snapshot, proposal: Offer) -> float:
        if proposal.lever == ROLLBACK:
            seen = snapshot.signals
            rise, fall = seen["loss"] - seen["lowest"], -seen["velocity"] * snapshot.arrived
            comes_back = self._fell(snapshot) and 0 < self.returning * rise < fall
            return -0.7 if comes_back else 0.5
        if proposal.lever != "clip":
            return 0.0
        if proposal.value > snapshot.levers["clip"]:
            return 0.5 if self._fell(snapshot) else 0.0
        return 0.5 if snapshot.signals["velocity"] > 0 else 0.0
