"""The agent that watches gradients and loss: spikes, many NaN steps, divergence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from swarm.agents.base import SURE, Agent, Offer, Proposal
from swarm.levers import KEEP, ROLLBACK, UNREACHED
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings

TINY = 1e-9  # stands for a zero gradient, which has no logarithm
DOUBLE = math.log(2)


class Health(NamedTuple):
    """The health agent's state.

    centre, spread: running mean, and mean absolute deviation, of the logarithm of the windows'
        gradient peaks.
    seen: windows that entered them.
    calm: windows in a row without alarm.
    gone: windows in a row with a loss far over the lowest.
    sway: running mean of the loss's rise from one window to the next; a fall counts as 0.
    """

    centre: float = 0.0
    spread: float = 0.0
    seen: int = 0
    calm: int = 0
    gone: int = 0
    sway: float = 0.0


@dataclass(frozen=True)
class GradientHealth(Agent):
    """Reacts to gradients that leave their running distribution, and to a loss that runs away.

    A spike halves the clip and lets later steps with as large a norm be skipped. Many NaN steps or
    a diverging loss halve the clip and the learning rate. A loss that stays far over its lowest
    restores the last copy of the weights. Calm windows loosen the clip again.

    Attributes:
        clip: at the start, and after a recovery.
        spreads: spreads over the centre that make a spike, which is at least a doubling.
        learned: windows before spikes are detected.
        memory: weight of a new peak in the running distribution, and of a new rise in the sway.
        lost: fraction of NaN steps in a window that raises the alarm; the step itself skips single
            ones.
        away: fraction over the lowest loss that counts as divergence.
        far: fraction over the lowest loss that may restore the last copy.
        noises: standard errors, and sways, that both must also exceed, because small batches stray
            from the lowest window, and a high rate stays away from it for several windows.
        falling: standard errors by which a loss that recovers by itself falls in a window.
        returning: fraction of its rise by which it falls, too.
        persistent: windows in a row that are far, without falling, before the copy is restored.
        cooled: lr scale under which no copy is restored, because the falling rate recovers the
            loss.
        patience: calm windows before the clip is loosened.
        keep_first: calm windows before the first copy of the weights.
        keep_every: calm windows between copies.
    """

    name: ClassVar[str] = "health"
    levers: ClassVar[tuple[str, ...]] = ("clip", KEEP, "lr_factor", ROLLBACK, "skip_norm")
    reads: ClassVar[tuple[str, ...]] = ("gradient_peak", "loss", "lowest", "noise", "velocity")
    sets: ClassVar[tuple[str, ...]] = ("seed",)

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
        peak = math.log(max(snapshot.signals["gradient_peak"], TINY))
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
        skip_norm = math.exp(state.centre + 2 * far_out)
        proposals = self._tighten(snapshot, skip_norm) if spike else []
        if storm:
            proposals += self._slow(snapshot, SURE, "NaN storm")
        elif away:
            proposals += self._slow(snapshot, 0.7, "divergence")
        if lost and snapshot.kept is not None:
            reason = "all NaN" if dead else "far gone"
            proposals.append(Proposal(self.name, ROLLBACK, 1.0, SURE, reason))
        return learnt, proposals

    def _strays(self, state: Health, snapshot: Snapshot) -> tuple[bool, int]:
        """Return whether the loss diverges, and how many windows in a row were far.

        The number includes this window; it is 0 if this one is not far, or falls back.
        """
        seen, lowest = snapshot.signals, snapshot.signals["lowest"]
        rise = seen["loss"] - lowest
        if rise <= self.away * lowest or rise <= self.noises * max(seen["noise"], state.sway):
            return False, 0
        velocity = seen["velocity"]
        fall = -velocity * snapshot.arrived
        falls = fall > max(self.falling * seen["noise"], self.returning * rise)
        return velocity > 0, 0 if falls or rise <= self.far * lowest else state.gone + 1

    def _learn(
        self, state: Health, within: float, alarm: bool, gone: int, snapshot: Snapshot
    ) -> Health:
        """Return the next state.

        An outlier enters as the largest peak that is no spike, so that a lasting change is
        accepted.
        """
        if snapshot.nonfinite == snapshot.arrived:
            return state._replace(calm=0, gone=gone)
        calm = 0 if alarm else state.calm + 1
        if not state.seen:
            return Health(within, 0.0, 1, calm)
        off = within - state.centre
        centre = state.centre + self.memory * off
        spread = state.spread + self.memory * (abs(off) - state.spread)
        rise, velocity = 0.0, snapshot.signals["velocity"]
        if velocity > 0:
            most = self.away * snapshot.signals["lowest"] + self.noises * state.sway
            rise = min(velocity * snapshot.arrived, most)
        sway = state.sway + self.memory * (rise - state.sway)
        return Health(centre, spread, state.seen + 1, calm, gone, sway)

    def _tighten(self, snapshot: Snapshot, skip_norm: float) -> list[Proposal]:
        return [
            Proposal(self.name, "clip", snapshot.levers["clip"] / 2, SURE, "spike"),
            Proposal(self.name, "skip_norm", skip_norm, SURE, "spike"),
        ]

    def _slow(self, snapshot: Snapshot, confidence: float, reason: str) -> list[Proposal]:
        clip, factor = snapshot.levers["clip"] / 2, snapshot.levers["lr_factor"] / 2
        return [
            Proposal(self.name, "clip", clip, SURE, reason),
            Proposal(self.name, "lr_factor", factor, confidence, reason),
        ]

    def _calm(self, state: Health, snapshot: Snapshot) -> Sequence[Proposal]:
        """Return the proposals of a calm window: loosen the clip, copy the weights.

        The confidence grows with the calm windows; the first proposals need a second agent.
        """
        held, skip_norm = snapshot.levers["clip"], snapshot.levers["skip_norm"]
        tight = held < self.clip or skip_norm < UNREACHED
        loosens, keeps = tight and state.calm >= self.patience, self._keeps(state)
        if not (loosens or keeps):
            return ()
        proposals = []
        confidence = min(SURE, 0.4 + 0.1 * state.calm)
        if loosens and held < self.clip:
            clip = min(self.clip, 2 * held)
            proposals.append(Proposal(self.name, "clip", clip, confidence, "calm"))
        if loosens and skip_norm < UNREACHED:
            proposals.append(Proposal(self.name, "skip_norm", UNREACHED, confidence, "calm"))
        seen, lowest = snapshot.signals, snapshot.signals["lowest"]
        good = seen["loss"] - lowest <= max(self.away / 2 * lowest, self.noises * seen["noise"])
        if good and keeps:
            proposals.append(Proposal(self.name, KEEP, 1.0, SURE, "calm"))
        return proposals

    def _keeps(self, state: Health) -> bool:
        """Return whether a calm window ends with a copy of the weights."""
        calm = state.calm
        return calm >= self.patience and calm % self.keep_every == self.keep_first

    def vote(self, state: Health, snapshot: Snapshot, proposal: Offer) -> float:
        if proposal.lever == "qat":
            return 0.0 if state.calm else -0.7  # no new regime in an emergency
        if proposal.lever == "lr_factor":
            if proposal.value > snapshot.levers["lr_factor"]:
                return 0.5 if state.calm >= self.patience else -0.7
            return 0.0 if state.calm else 0.5
        return 0.0
