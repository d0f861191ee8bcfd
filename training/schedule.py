"""What changes over a run by rule: learning-rate scale, momentum, QAT. Progress is the clock's."""

from dataclasses import dataclass

from settings import Settings


@dataclass(frozen=True)
class Moment:
    """Where a run is, and what follows from it.

    ``progress`` and ``lr_scale`` are in [0, 1].
    """

    progress: float
    lr_scale: float
    momentum: float
    qat: bool


def moment(
    settings: Settings, step: int, elapsed: float, mean_step: float, reserved: float = 0.0
) -> Moment:
    """The schedule at ``step`` (from 0), ``elapsed`` seconds into the budget.

    The learning rate is constant, then falls linearly to zero over the last ``warmdown_iters``
    steps' worth of what runs out first: time (at ``mean_step`` seconds a step) or iterations. Of
    the time, ``reserved`` seconds at the end are not for steps.
    """
    shares = [step / settings.iterations]
    scales = [1.0]
    if settings.warmdown_iters:
        scales.append((settings.iterations - step) / settings.warmdown_iters)
    if settings.wallclock:
        seconds = settings.wallclock - reserved
        shares.append(elapsed / seconds)
        warmdown_seconds = settings.warmdown_iters * mean_step
        if warmdown_seconds:
            scales.append((seconds - elapsed) / warmdown_seconds)
    lr_scale = max(0.0, min(scales))
    return Moment(
        progress=min(1.0, max(shares)),
        lr_scale=lr_scale,
        momentum=momentum_at(settings, step),
        qat=lr_scale < settings.late_qat_threshold,
    )


def momentum_at(settings: Settings, step: int) -> float:
    """Muon's momentum: linear from its start to its end over the first steps."""
    start, end = settings.muon_momentum_warmup_start, settings.muon_momentum
    share = min(1.0, step / max(1, settings.muon_momentum_warmup_steps))
    return start + (end - start) * share
