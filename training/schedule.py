"""The schedule: stage, learning-rate scale, momentum and QAT by the progress of the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

from settings import Settings
from settings.stages import or_one
from settings.variants import Variant, stage_variants

# Of the run: a warm-down of a number of steps takes no more, so that a short run learns, too.
MOST_WARMDOWN = 0.6
PaceOf = Callable[[Variant], float]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Moment:
    """A point in a run, and the scheduled values there.

    progress: fraction of the run, in [0, 1].
    lr_scale: scale of all learning rates.
    momentum: of Muon.
    qat: whether the schedule trains with int6-rounded weights.
    warmdown: ``lr_scale`` before its floor and the stage's factor: 1, then falling to 0.
    lean: mean steps that weights look ahead.
    """

    progress: float
    lr_scale: float
    momentum: float
    qat: bool
    warmdown: float = 1.0
    lean: float = 0.0


class Lean(NamedTuple):
    """How many mean steps weights look ahead at the full rate, between two fractions of the run."""

    strength: float
    begins: float
    ends: float

    def at(self, progress: float, lr_scale: float) -> float:
        """Return the same at a fraction of the run and a scale of the rates."""
        return self.strength * lr_scale if self.begins <= progress < self.ends else 0.0


class Momentum(NamedTuple):
    """Muon's momentum: at step 0, after its warm-up, and the steps or the fraction of that.

    cooldown: last fraction of the run, in which it falls to ``last``; 0: it stays.
    """

    start: float
    end: float
    steps: int
    share: float
    cooldown: float
    last: float

    def at(self, step: int, progress: float) -> float:
        """Return the momentum, which rises and falls linearly."""
        over = progress / self.share if self.share else step / max(1, self.steps)
        momentum = self.start + (self.end - self.start) * min(1.0, over)
        if 1 - progress < self.cooldown:
            momentum = self.last + (momentum - self.last) * (1 - progress) / self.cooldown
        return momentum


def remembering(momentum: float, factor: float) -> float:
    """Return the momentum that remembers so many times the steps, ``1 / (1 - momentum)``."""
    return momentum if factor == 1 else max(0.0, 1 - (1 - momentum) / factor)


def further_weights(count: int, progress: float) -> tuple[float, ...]:
    """Return the weights of so many targets after the next, the nearest first.

    Target k weighs ``2^-k``. The run has ``count + 1`` equal parts: the farthest target's weight
    falls to zero in the first, the nearest's in the last but one (modded-nanogpt).
    """
    parts = (1 - progress) * (count + 1)
    return tuple(2.0**-k * min(1.0, max(0.0, parts - k)) for k in range(1, count + 1))


def in_force(stages: Sequence[tuple[float, Value]], progress: float) -> Value:
    """Return the value of the stage in which a fraction of the run is over.

    Args:
        stages: the fraction at which each ends, and its value.
        progress: of the run.
    """
    return next((value for until, value in stages if progress < until), stages[-1][1])


@dataclass(frozen=True)
class Schedule:
    """The schedule of a run.

    Attributes:
        seconds: of the run; 0: only the iterations end it.
        iterations: most steps.
        warmdown: steps in which the learning rates fall, at most ``MOST_WARMDOWN`` of all.
        warmdown_share: the same as a fraction of the run; 0: ``warmdown`` holds.
        floor: least scale of the learning rates.
        momentum: Muon's.
        qat_below: QAT is on while the warm-down's scale, before its floor, is below.
        stages: fraction of the run at which each stage ends, and its variant.
        factors: the same of the stages' factors on the learning rates.
        lean: look-ahead of the weights.
    """

    seconds: float
    iterations: int
    warmdown: int
    warmdown_share: float
    floor: float
    momentum: Momentum
    qat_below: float
    stages: tuple[tuple[float, Variant], ...]
    factors: tuple[tuple[float, float], ...]
    lean: Lean

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the schedule that the settings describe."""
        momentum = Momentum(
            settings.muon_momentum_warmup_start,
            settings.muon_momentum,
            settings.muon_momentum_warmup_steps,
            settings.muon_momentum_warmup_share,
            settings.muon_cooldown_share,
            settings.muon_cooldown_end,
        )
        stages = or_one(settings.stages)
        ends = [stage.until for stage in stages]
        return cls(
            settings.wallclock,
            settings.iterations,
            settings.warmdown_iters,
            settings.warmdown_share,
            settings.min_lr,
            momentum,
            settings.late_qat_threshold,
            tuple(zip(ends, stage_variants(settings), strict=True)),
            tuple((stage.until, stage.lr_factor or 1.0) for stage in stages),
            Lean(settings.lean, settings.lean_from, settings.lean_until),
        )

    def variant(self, progress: float) -> Variant:
        """Return the variant of the stage in which a fraction of the run is over."""
        return in_force(self.stages, progress)

    def at(self, step: int, elapsed: float, pace: PaceOf, reserved: float = 0.0) -> Moment:
        """Return the scheduled values at a step.

        Args:
            step: number of the step, from 0.
            elapsed: seconds of the budget that are spent.
            pace: returns the seconds of a step of a variant.
            reserved: seconds at the end of the run that are not for steps.
        """
        fractions = [step / self.iterations]
        if self.seconds:
            fractions.append(elapsed / (self.seconds - reserved))
        progress = min(1.0, max(fractions))
        warmdown = self._warmdown(step, elapsed, progress, pace, reserved)
        lr_scale = max(warmdown, self.floor) * in_force(self.factors, progress)
        return Moment(
            progress=progress,
            lr_scale=lr_scale,
            momentum=self.momentum.at(step, progress),
            qat=warmdown < self.qat_below,
            warmdown=warmdown,
            lean=self.lean.at(progress, lr_scale),
        )

    def _warmdown(
        self, step: int, elapsed: float, progress: float, pace: PaceOf, reserved: float
    ) -> float:
        """Return the scale of the learning rates: one, then falling linearly to zero."""
        scales = [1.0]
        if self.warmdown_share:
            scales.append((1 - progress) / self.warmdown_share)
        elif self.warmdown:
            steps = min(self.warmdown, MOST_WARMDOWN * self.iterations)
            scales.append((self.iterations - step) / steps)
            seconds = self.seconds - reserved
            if self.seconds and (warmdown := self.seconds_of_last(self.warmdown, seconds, pace)):
                scales.append((seconds - elapsed) / min(warmdown, MOST_WARMDOWN * seconds))
        return max(0.0, min(scales))

    def seconds_of_last(self, steps: int, seconds: float, pace: PaceOf) -> float:
        """Return how long the last steps of a run take, at the pace of the stages they are in.

        Args:
            steps: number of steps.
            seconds: of the whole run.
            pace: returns the seconds of a step of a variant.
        """
        begins = (0.0, *(until for until, _ in self.stages))
        left, later = float(steps), 0.0
        for begin, (until, variant) in reversed(list(zip(begins, self.stages, strict=False))):
            of_stage, needed = (until - begin) * seconds, left * pace(variant)
            if not begin or needed <= of_stage:
                return later + needed
            later += of_stage
            left -= of_stage / pace(variant)
        raise AssertionError("the first stage begins at 0")
