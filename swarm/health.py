"""The agent that watches gradients and loss: a spike, a storm of NaN, a divergence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from swarm.mesh import KEEP, ROLLBACK, SURE, Agent, Proposal
from swarm.telemetry import UNREACHED, Snapshot

if TYPE_CHECKING:
    from settings import Settings

TINY = 1e-9  # stands for a gradient of zeros, which has no logarithm
DOUBLE = math.log(2)


class Health(NamedTuple):
    """``centre`` and ``spread`` of the logarithm of windows' gradient peaks; windows ``seen``, in a
    row without alarm (``calm``) and far gone (``gone``); mean rise of the loss from a window to the
    next, a fall counting as none (``sway``)."""

    centre: float = 0.0
    spread: float = 0.0
    seen: int = 0
    calm: int = 0
    gone: int = 0
    sway: float = 0.0


@dataclass(frozen=True)
class GradientHealth(Agent):
    """Tightens the clip and lets steps far out be skipped when gradients leave their own running
    distribution; cuts the rate when steps are lost to NaN or the loss runs away; returns to the
    last good state when the loss is far gone. All of it has time to recover.

    Attributes:
        clip: to begin with, and to return to.
        spreads: of the running distribution that make a spike; it is at least a doubling.
        learned: windows until the distribution counts.
        memory: share of the distribution that a new peak makes up, and of the sway a new rise.
        lost: share of steps that are not finite from which they are a storm; single ones cost
            one step each, which the step itself skips.
        away: share over the lowest loss that is divergence.
        far: share over the lowest loss from which it is gone for good.
        noises: standard errors, and sways, that both must have: small batches stray from the lowest
            window, and a high rate wanders away from it for several.
        falling: standard errors that a loss falls by which comes back by itself;
        returning: share of its rise that it falls by, too.
        persistent: windows in a row that are far, without falling, until the run is given up.
        cooled: lr scale under which no loss is gone for good: the falling rate brings it back.
        patience: calm windows until the clip is loosened.
        keep_first: calm windows until the state is copied;
        keep_every: and between copies.
    """

    name: ClassVar[str] = "health"
    levers: ClassVar[tuple[str, ...]] = ("clip", KEEP, "lr_factor", ROLLBACK, "skip_norm")

    clip: float = 0.3
    spreads: float = 6.0
    learned: int = 3
    memory: float = 0.2
    lost: float = 0.05
    away: float = 0.05
    far: float = 0.15
    noises: float = 6.0
    falling: float = 1.5
    returning: float = 0.1
    persistent: int = 2
    cooled: float = 0.5
    patience: int = 3
    keep_first: int = 5
    keep_every: int = 16

    @classmethod
    def of(cls, settings: "Settings") -> Self:
        return cls(settings.grad_clip_norm)

    def start(self) -> Health:
        return Health()

    def propose(self, state: Health, snapshot: Snapshot) -> tuple[Health, Sequence[Proposal]]:
        if not snapshot.arrived:
            return state, ()
        peak = math.log(max(snapshot.gradient_peak, TINY))
        far_out = max(DOUBLE, self.spreads * state.spread)
        spike = state.seen >= self.learned and peak > state.centre + far_out
        storm = snapshot.nonfinite > self.lost * snapshot.arrived
        away, gone = self._strays(state, snapshot)
        dead = snapshot.nonfinite == snapshot.arrived
        lost = dead or (gone >= self.persistent and snapshot.lr_scale >= self.cooled)
        alarm = spike or storm or away or lost
        within = min(peak, state.centre + far_out) if state.seen else peak
        learnt = self._learn(state, within, alarm, gone, snapshot)
        if not alarm:
            return learnt, self._calm(learnt, snapshot)
        wishes = self._tighten(snapshot, math.exp(state.centre + 2 * far_out)) if spike else []
        if storm:
            wishes += self._slow(snapshot, SURE, "NaN storm")
        elif away:
            wishes += self._slow(snapshot, 0.7, "divergence")
        if lost and snapshot.kept is not None:
            reason = "all NaN" if dead else "far gone"
            wishes.append(Proposal(self.name, ROLLBACK, 1.0, SURE, reason))
        return learnt, wishes

    def _strays(self, state: Health, snapshot: Snapshot) -> tuple[bool, int]:
        """Whether the loss runs away; windows in a row that were far, this one included, where 0
        says that it is not, or is coming back."""
        rise, lowest = snapshot.loss - snapshot.lowest, snapshot.lowest
        if rise <= self.away * lowest or rise <= self.noises * max(snapshot.noise, state.sway):
            return False, 0
        fall = -snapshot.velocity * snapshot.arrived
        falls = fall > max(self.falling * snapshot.noise, self.returning * rise)
        return snapshot.velocity > 0, 0 if falls or rise <= self.far * lowest else state.gone + 1

    def _learn(
        self, state: Health, within: float, alarm: bool, gone: int, snapshot: Snapshot
    ) -> Health:
        """An outlier counts as the largest that is none, so that a lasting change is accepted."""
        if snapshot.nonfinite == snapshot.arrived:
            return state._replace(calm=0, gone=gone)
        calm = 0 if alarm else state.calm + 1
        if not state.seen:
            return Health(within, 0.0, 1, calm)
        off = within - state.centre
        centre = state.centre + self.memory * off
        spread = state.spread + self.memory * (abs(off) - state.spread)
        rise, most = 0.0, self.away * snapshot.lowest + self.noises * state.sway
        if snapshot.velocity > 0:
            rise = min(snapshot.velocity * snapshot.arrived, most)
        sway = state.sway + self.memory * (rise - state.sway)
        return Health(centre, spread, state.seen + 1, calm, gone, sway)

    def _tighten(self, snapshot: Snapshot, skip_norm: float) -> list[Proposal]:
        return [
            Proposal(self.name, "clip", snapshot.levers.clip / 2, SURE, "spike"),
            Proposal(self.name, "skip_norm", skip_norm, SURE, "spike"),
        ]

    def _slow(self, snapshot: Snapshot, confidence: float, reason: str) -> list[Proposal]:
        clip, factor = snapshot.levers.clip / 2, snapshot.levers.lr_factor / 2
        return [
            Proposal(self.name, "clip", clip, SURE, reason),
            Proposal(self.name, "lr_factor", factor, confidence, reason),
        ]

    def _calm(self, state: Health, snapshot: Snapshot) -> Sequence[Proposal]:
        """Loosen what is tight: the longer it is calm the surer, at first it takes a second."""
        levers = snapshot.levers
        tight = levers.clip < self.clip or levers.skip_norm < UNREACHED
        keeps = state.calm % self.keep_every == self.keep_first
        if state.calm < self.patience or not (tight or keeps):
            return ()
        wishes = []
        confidence = min(SURE, 0.4 + 0.1 * state.calm)
        if levers.clip < self.clip:
            clip = min(self.clip, 2 * levers.clip)
            wishes.append(Proposal(self.name, "clip", clip, confidence, "calm"))
        if levers.skip_norm < UNREACHED:
            wishes.append(Proposal(self.name, "skip_norm", UNREACHED, confidence, "calm"))
        rise = snapshot.loss - snapshot.lowest
        good = rise <= max(self.away / 2 * snapshot.lowest, self.noises * snapshot.noise)
        if good and keeps:
            wishes.append(Proposal(self.name, KEEP, 1.0, SURE, "calm"))
        return wishes

    def vote(self, state: Health, snapshot: Snapshot, proposal: Proposal) -> float:
        if proposal.lever == "qat":
            return 0.0 if state.calm else -0.7  # no new regime in an emergency
        if proposal.lever == "lr_factor":
            if proposal.value > snapshot.levers.lr_factor:
                return 0.5 if state.calm >= self.patience else -0.7
            return 0.0 if state.calm else 0.5
        return 0.0
