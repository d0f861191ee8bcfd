"""What agents see: the numbers of the steps since the last cycle, summed up on the host."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from swarm.levers import LeverValues


class Snapshot(NamedTuple):
    """A run at one cycle, the same on every rank. Every number is finite, even if the run's are
    not. The window is the steps whose numbers arrived since the cycle before.
    """

    step: int
    progress: float
    """Fraction of the wallclock, or of the iterations if they end the run first."""
    lr_scale: float
    """Scale of the learning rates by the schedule, in [0, 1]."""
    loss: float
    """Mean nats over the window."""
    velocity: float
    """Change of ``loss`` since the window before, nats a step."""
    noise: float
    """Standard error of ``loss``, nats."""
    lowest: float
    """``loss`` of the best window since QAT was last switched, this one included."""
    gradient_norm: float
    """Before the clip, mean over the window."""
    gradient_peak: float
    """Before the clip, largest of the window."""
    nonfinite: int
    """Steps of the window whose loss or gradient was not finite."""
    arrived: int
    """Steps of the window, the nonfinite ones included."""
    int6_error: float | None
    """Norm of the weights' int6 rounding error over the weights' norm; None: not measured."""
    kept: int | None
    """Steps that were done at the last copy of the weights; None: there is no copy."""
    levers: LeverValues


class Telemetry:
    """Sums of the current window. ``add`` and ``snapshot`` take one or two microseconds.

    A step that is not finite is counted and enters no mean. A window without a finite step has the
    means of the last window that had one.
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
        self.qat: float | None = None  # at ``lowest``; None before the first finite step
        self.error: float | None = None
        self._clear()

    def _clear(self) -> None:
        self.arrived = self.finite = 0
        # Sums of (loss - previous mean): subtracting first keeps the variance exact if the noise
        # is small and the loss large.
        self.off = self.squares = 0.0
        self.norms = self.peak = 0.0

    def add(self, loss: float, gradient_norm: float, int6_error: float | None = None) -> None:
        """Add the numbers of a finished step."""
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
        """Return the current window, and begin the next one."""
        count = self.finite
        velocity = noise = 0.0
        if count:
            off = self.off / count
            self.loss += off
            self.norm = self.norms / count
            if count > 1:
                noise = math.sqrt(max(0.0, self.squares / count - off * off) / (count - 1))
            if self.qat != levers.qat:  # losses before and after the switch are not comparable
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
        """Return the state as plain JSON; it includes the current window."""
        return [getattr(self, name) for name in self.__slots__]

    def load(self, state: Sequence) -> None:
        """Restore what ``state`` returned."""
        for name, value in zip(self.__slots__, state, strict=True):
            setattr(self, name, value)
