"""The schedule: learning-rate scale, momentum and QAT by the progress of the run."""

from dataclasses import dataclass
from typing import Self

from settings import Settings


@dataclass(frozen=True)
class Moment:
    """A point in a run, and the scheduled values there.

    progress: fraction of the run, in [0, 1].
    lr_scale: scale of all learning rates, in [0, 1].
    momentum: of Muon.
    qat: whether the schedule trains with int6-rounded weights.
    """

    progress: float
    lr_scale: float
    momentum: float
    qat: bool


@dataclass(frozen=True)
class Schedule:
    """The schedule of a run.

    Attributes:
        seconds: of the run; 0: only the iterations end it.
        iterations: most steps.
        warmdown: steps in which the learning rates fall to zero.
        momentum: Muon's at step 0, after its warm-up, and the steps of its warm-up.
        qat_below: QAT is on while the scale of the learning rates is below.
    """

    seconds: float
    iterations: int
    warmdown: int
    momentum: tuple[float, float, int]
    qat_below: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the schedule that the settings describe."""
        momentum = (
            settings.muon_momentum_warmup_start,
            settings.muon_momentum,
            settings.muon_momentum_warmup_steps,
        )
        return cls(
            settings.wallclock,
            settings.iterations,
            settings.warmdown_iters,
            momentum,
            settings.late_qat_threshold,
        )

    def at(self, step: int, elapsed: float, mean_step: float, reserved: float = 0.0) -> Moment:
        """Return the scheduled values at a step.

        Args:
            step: number of the step, from 0.
            elapsed: seconds of the budget that are spent.
            mean_step: seconds of a step.
            reserved: seconds at the end of the run that are not for steps.
        """
        seconds = self.seconds - reserved if self.seconds else None
        seconds_left = None if seconds is None else seconds - elapsed
        lr_scale = lr_scale_at(self.iterations - step, seconds_left, self.warmdown, mean_step)
        fractions = [step / self.iterations]
        if seconds is not None:
            fractions.append(elapsed / seconds)
        return Moment(
            progress=min(1.0, max(fractions)),
            lr_scale=lr_scale,
            momentum=momentum_at(step, *self.momentum),
            qat=lr_scale < self.qat_below,
        )


def lr_scale_at(
    steps_left: int, seconds_left: float | None, warmdown: int, mean_step: float
) -> float:
    """Return the scale of the learning rates: constant, then falling linearly to zero.

    Args:
        steps_left: of the iterations.
        seconds_left: of the wallclock; None: there is no limit.
        warmdown: steps in which the scale falls.
        mean_step: seconds of a step, which turns ``warmdown`` into seconds.
    """
    scales = [1.0]
    if warmdown:
        scales.append(steps_left / warmdown)
    if seconds_left is not None and (warmdown_seconds := warmdown * mean_step):
        scales.append(seconds_left / warmdown_seconds)
    return max(0.0, min(scales))


def momentum_at(step: int, start: float, end: float, steps: int) -> float:
    """Return Muon's momentum, which rises linearly from ``start`` to ``end`` in ``steps`` steps."""
    return start + (end - start) * min(1.0, step / max(1, steps))
