"""The schedule: learning-rate scale, momentum and QAT by the progress of the run."""

from dataclasses import dataclass

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


def moment(
    settings: Settings, step: int, elapsed: float, mean_step: float, reserved: float = 0.0
) -> Moment:
    """Return the schedule at a step.

    Args:
        settings: of the run.
        step: number of the step, from 0.
        elapsed: seconds of the budget that are spent.
        mean_step: seconds of a step.
        reserved: seconds at the end of the wallclock that are not for steps.
    """
    seconds = settings.wallclock - reserved if settings.wallclock else None
    lr_scale = lr_scale_at(
        settings.iterations - step,
        None if seconds is None else seconds - elapsed,
        settings.warmdown_iters,
        mean_step,
    )
    fractions = [step / settings.iterations]
    if seconds is not None:
        fractions.append(elapsed / seconds)
    return Moment(
        progress=min(1.0, max(fractions)),
        lr_scale=lr_scale,
        momentum=momentum_at(
            step,
            settings.muon_momentum_warmup_start,
            settings.muon_momentum,
            settings.muon_momentum_warmup_steps,
        ),
        qat=lr_scale < settings.late_qat_threshold,
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
