"""What agents see: a run's numbers of the last cycle, gathered on the host as they arrive."""

import math
from collections.abc import Sequence
from typing import NamedTuple

UNREACHED = 3e38  # a norm that fp32 holds, and no finite gradient of a sane run has


class LeverValues(NamedTuple):
    """One value of every lever; the levers are named here, once."""

    clip: float = 0.0
    """Global gradient norm; 0: no clip."""
    kg_weight: float = 0.0
    """How far the graph's scores weight the loss."""
    lr_factor: float = 1.0
    """Times the schedule's learning rates."""
    mtp_weight: float = 0.0
    """Of the MTP heads' mean loss."""
    qat: float = 0.0
    """Above 0.5: int6-faked weights."""
    skip_norm: float = UNREACHED
    """Steps whose gradient norm is not at most this change nothing."""


class Snapshot(NamedTuple):
    """A run at one cycle; every number is finite, whatever the run's are.

    "Window" is the steps that arrived since the cycle before; the same on every rank.
    """

    step: int
    progress: float
    """Share of the wallclock (or of the iterations, whatever ends the run first)."""
    lr_scale: float
    """The schedule's, in [0, 1]."""
    loss: float
    """Mean nats over the window."""
    velocity: float
    """Change of ``loss`` since the window before, nats a step."""
    noise: float
    """Standard error of ``loss``, nats."""
    lowest: float
    """``loss`` of the best window since QAT was switched, this one included."""
    gradient_norm: float
    """Before the clip, mean over the window."""
    gradient_peak: float
    """Before the clip, largest of the window."""
    nonfinite: int
    """Steps of the window whose loss or gradient was not finite."""
    arrived: int
    """Steps of the window, those included."""
    int6_error: float | None
    """Norm of the weights' int6 rounding error over the weights' norm, where it is measured."""
    kept: int | None
    """Steps that were done when the loop last kept a copy of the state to return to."""
    levers: LeverValues


class Telemetry:
    """Adds up a window; ``add`` and ``snapshot`` cost a microsecond or two, and no sync.

    A step that is not finite counts as such and enters no mean; a window without a finite step
    shows the means of the last one that had any.
    """

    __slots__ = (
        "arrived",
        "error",
        "finite",
        "loss",
        "lowest",
        "norm",
        "norms",
        "off",
        "peak",
        "qat",
        "squares",
    )

    def __init__(self) -> None:
        self.loss = self.lowest = self.norm = 0.0
        self.qat: float | None = None  # that ``lowest`` belongs to; None before a finite step
        self.error: float | None = None
        self._clear()

    def _clear(self) -> None:
        self.arrived = self.finite = 0
        self.off = self.squares = 0.0  # of losses less the last window's mean: sums, so that
        self.norms = self.peak = 0.0  # the spread of a small noise on a large loss stays exact

    def add(self, loss: float, gradient_norm: float, int6_error: float | None = None) -> None:
        """Take in a step that has landed."""
        self.arrived += 1
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return
        self.finite += 1
        off = loss - self.loss
        self.off += off
        self.squares += off * off
        self.norms += gradient_norm
        if gradient_norm > self.peak:
            self.peak = gradient_norm
        if int6_error is not None and math.isfinite(int6_error):
            self.error = int6_error

    def snapshot(
        self,
        step: int,
        progress: float,
        lr_scale: float,
        kept: int | None,
        levers: LeverValues,
    ) -> Snapshot:
        """The window that ends here; the next one begins."""
        count = self.finite
        velocity = noise = 0.0
        if count:
            off = self.off / count
            self.loss += off
            self.norm = self.norms / count
            if count > 1:
                noise = math.sqrt(max(0.0, self.squares / count - off * off) / (count - 1))
            if self.qat != levers.qat:  # other weights, another loss: nothing to compare with
                self.lowest, self.qat = self.loss, levers.qat
            else:
                velocity = off / self.arrived
                self.lowest = min(self.lowest, self.loss)
        taken = Snapshot(
            step,
            progress,
            lr_scale,
            self.loss,
            velocity,
            noise,
            self.lowest,
            self.norm,
            self.peak if count else self.norm,
            self.arrived - count,
            self.arrived,
            self.error,
            kept,
            levers,
        )
        self._clear()
        return taken

    def state(self) -> list:
        """For a checkpoint, as JSON holds it; the window that is open is part of it."""
        return [getattr(self, name) for name in self.__slots__]

    def load(self, state: Sequence) -> None:
        """Take back what ``state`` gave."""
        for name, value in zip(self.__slots__, state, strict=True):
            setattr(self, name, value)
