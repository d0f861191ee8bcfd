"""The agents. A new one is a class here and its name in ``AGENTS``.

Each holds constants; what it remembers from cycle to cycle is its state, which ``propose`` takes
and gives back. ``of`` makes it for a run, or says with None that the run has no use for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from swarm.health import GradientHealth
from swarm.mesh import ROLLBACK, SURE, Agent, Proposal
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings


@dataclass(frozen=True)
class QatTiming(Agent):
    """Turns int6-faked weights on, once: late in the run, where the rate is low, or where the
    rounding error is seen to hurt; at the deadline if nobody can tell that it does not.

    Attributes:
        threshold: of the learning rate's scale.
        earliest, deadline: shares of the run.
        tolerable: int6 error under which the deadline asks nothing. At 0.14 GPTQ lost 0.0003 bpb
            where QAT waited for the low rate; a switch at 65 % cost 0.007 (docs/swarm.md).
        urgent: int6 error that waits for no deadline.
    """

    name: ClassVar[str] = "qat"
    levers: ClassVar[tuple[str, ...]] = ("qat",)

    threshold: float = 0.15
    earliest: float = 0.40
    deadline: float = 0.65
    tolerable: float = 0.15
    urgent: float = 0.25

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        threshold = settings.late_qat_threshold
        return cls(threshold) if threshold else None

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        if snapshot.levers.qat > 0.5 or snapshot.progress < self.earliest:
            return state, ()
        error = snapshot.int6_error
        if snapshot.lr_scale < self.threshold:
            reason = "low learning rate"
        elif error is not None and error > self.urgent:
            reason = "int6 error"
        elif snapshot.progress >= self.deadline and (error is None or error > self.tolerable):
            reason = "deadline"
        else:
            return state, ()
        return state, (Proposal(self.name, "qat", 1.0, SURE, reason),)


@dataclass(frozen=True)
class KgWeight(Agent):
    """Tapers the graph's say in the loss: common tokens teach first, all alike in the end.

    Attributes:
        weight: to begin with.
        taper: (share of the run up to which it holds, share of the weight).
        last: share of the weight after all of them.
    """

    name: ClassVar[str] = "kg"
    levers: ClassVar[tuple[str, ...]] = ("kg_weight",)

    weight: float = 0.5
    taper: tuple[tuple[float, float], ...] = ((0.15, 1.0), (0.40, 0.8), (0.70, 0.6))
    last: float = 0.2

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        weight = settings.kg_loss_weight if settings.kg_scores else 0.0
        return cls(weight) if weight else None

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        share = self.last
        for until, held in self.taper:
            if snapshot.progress < until:
                share = held
                break
        weight = share * self.weight
        if weight == snapshot.levers.kg_weight:
            return state, ()
        return state, (Proposal(self.name, "kg_weight", weight, SURE, "taper"),)


@dataclass(frozen=True)
class MtpWeight(Agent):
    """Halves the weight of the MTP loss for the end, where only the next token counts.

    Attributes:
        weight: to begin with.
        from_progress: share of the run.
    """

    name: ClassVar[str] = "mtp"
    levers: ClassVar[tuple[str, ...]] = ("mtp_weight",)

    weight: float = 0.1
    from_progress: float = 0.75

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        weight = settings.mtp_loss_weight if settings.mtp_num_heads else 0.0
        return cls(weight) if weight else None

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        half = self.weight / 2
        if snapshot.progress < self.from_progress or snapshot.levers.mtp_weight <= half:
            return state, ()
        return state, (Proposal(self.name, "mtp_weight", half, SURE, "end of the run"),)


class Trend(NamedTuple):
    """Loss of the last window that was clearly lower than those before it (``low``; 0: none yet),
    windows in a row since (``flat``), and without a rise (``well``); the highest rate factor that
    plateaus leave (``ceiling``)."""

    low: float = 0.0
    flat: int = 0
    well: int = 0
    ceiling: float = 1.0


@dataclass(frozen=True)
class LearningRate(Agent):
    """Reads the loss's velocity against its noise: halves the rate while the loss rises, lowers it
    on a plateau of the constant phase, and takes a halving back once the loss is well again.

    Attributes:
        noises: standard errors of the loss that tell lower from flat.
        least: share of the loss that a change must have.
        away: share over the lowest loss that is rising; a quarter of it is none.
        plateau: windows without a clearly lower loss that make one; so many, because the loss of
            a healthy run falls by less than its noise from window to window.
        steepest: factor under which no plateau brings the rate.
        patience: windows that make a recovery.
        returning: share of its rise that a loss falls by in a window if it comes back by itself.
    """

    name: ClassVar[str] = "lr"
    levers: ClassVar[tuple[str, ...]] = ("lr_factor",)

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
        loss, lowest, factor = snapshot.loss, snapshot.lowest, snapshot.levers.lr_factor
        if snapshot.arrived == snapshot.nonfinite:
            return state, ()
        fell = self._fell(snapshot)
        rise = loss - lowest
        if not fell and rise > max(6 * snapshot.noise, self.away * lowest):
            wish = self._wish(factor / 2, 0.7, "rising loss")
            return Trend(state.low, 0, 0, state.ceiling), wish
        well = state.well + 1 if fell or rise < self.away / 4 * lowest else 0
        lowered = factor < state.ceiling
        low, flat = state.low, state.flat + 1
        if loss < low - self._least(snapshot) or low < lowest:  # lowest began anew: QAT switched
            low, flat = loss, 0
        if lowered or snapshot.lr_scale < 1:
            flat = 0
        if flat >= self.plateau and 0.7 * factor >= self.steepest:
            return Trend(low, 0, 0, 0.7 * factor), self._wish(0.7 * factor, SURE, "plateau")
        trend = Trend(low, flat, well, state.ceiling)
        if lowered and well >= self.patience:
            wish = min(state.ceiling, 1.5 * factor)
            return trend, self._wish(wish, min(SURE, 0.5 + 0.05 * well), "well again")
        return trend, ()

    def _fell(self, snapshot: Snapshot) -> bool:
        return -snapshot.velocity * snapshot.arrived > self._least(snapshot)

    def _least(self, snapshot: Snapshot) -> float:
        return max(self.noises * snapshot.noise, self.least * snapshot.loss)

    def _wish(self, value: float, confidence: float, reason: str) -> tuple[Proposal, ...]:
        return (Proposal(self.name, "lr_factor", value, confidence, reason),)

    def vote(self, state: Trend, snapshot: Snapshot, proposal: Proposal) -> float:
        if proposal.lever == ROLLBACK:
            rise, fall = snapshot.loss - snapshot.lowest, -snapshot.velocity * snapshot.arrived
            comes_back = self._fell(snapshot) and fall > self.returning * rise
            return -0.7 if comes_back else 0.5
        if proposal.lever != "clip":
            return 0.0
        if proposal.value > snapshot.levers.clip:
            return 0.5 if self._fell(snapshot) else 0.0
        return 0.5 if snapshot.velocity > 0 else 0.0


AGENTS: tuple[type[Agent], ...] = (QatTiming, KgWeight, GradientHealth, MtpWeight, LearningRate)
