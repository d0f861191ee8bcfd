"""The beginning of training: warm-up, and the time that the run's end needs."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from training.choosing import Chooser
from training.finishing import Calibrating
from training.opening import captured, expected, expected_steps
from training.pace import Start
from training.rank import Rank
from training.trainer import Trainer
from training.warm_up import warm_up

if TYPE_CHECKING:
    from training.reference_clock import ReferenceClock  # a contest's run has none


def begin(
    rank: Rank,
    trainer: Trainer,
    start: Start,
    clock: "ReferenceClock | None",
    calibration: Calibrating,
    chooser: Chooser,
) -> Start:
    """Warm up, say what is expected, and reserve time for calibration and for a choice of weights.

    Warm-up leaves no trace in the trainer.

    Returns:
        ``start`` with the seconds of a step that all ranks measured, by variant.
    """
    settings, progress = rank.settings, rank.progress
    progress.phase("warming up")
    done = rank.startup.done
    warm = warm_up(trainer, settings.warmup_steps, done)
    warm = dict(zip(warm, rank.world.gathered([*warm.values()])[0], strict=True))
    paces = clock.steps if clock else warm
    progress.line(expected(settings, paces))
    for variant, cost in trainer.steps.costs.items():
        rank.log("captured", **asdict(variant), **asdict(cost))
        progress.line(captured(variant, cost))
    if clock:
        clock.reserve(calibration, chooser, expected_steps(settings, paces))
        return start._replace(warmed=warm)
    if shortened := calibration.reserve(settings.wallclock):
        progress.line(shortened)
    done("rehearsal of calibration")
    if settings.wallclock and chooser.compares(expected_steps(settings, paces)):
        chooser.rehearse()
        done("rehearsal of choosing")
    return start._replace(warmed=warm)
