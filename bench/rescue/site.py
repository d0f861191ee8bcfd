"""Where troubles are planted: a trainer, seen from outside, and a clock that can be slowed."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from torch import Tensor

import training.budget
from settings.variants import Variant
from training.reference_clock import ReferenceClock
from training.schedule import Moment
from training.trainer import Trainer


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Let an attribute be another in this context."""
    own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


class Clock:
    """The seconds that a run's budget sees.

    Args:
        step_seconds: that a step counts, whatever it takes; 0: real time.
    """

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.step_seconds, self._steps = step_seconds, 0
        self._speed, self._since, self._before = 1.0, 0.0, 0.0

    def perf_counter(self) -> float:
        """Return seconds since some moment, as ``time.perf_counter``."""
        return self._before + self._speed * (self._real() - self._since)

    def hurry(self, speed: float) -> None:
        """Let the clock go so many times as fast from now on."""
        self._before, self._since, self._speed = self.perf_counter(), self._real(), speed

    def count(self) -> None:
        """Count a step."""
        self._steps += 1

    def _real(self) -> float:
        return self._steps * self.step_seconds if self.step_seconds else time.perf_counter()

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Let budgets read this clock, those of reference seconds, too."""
        seconds = ReferenceClock.seconds

        def hurried(clock: ReferenceClock, work: Variant | str) -> float:
            return self._speed * seconds(clock, work)

        ours = SimpleNamespace(perf_counter=self.perf_counter)
        with replaced(training.budget, "time", ours), replaced(ReferenceClock, "seconds", hurried):
            yield


class Site:
    """A run's trainer, and where in the run it is.

    Attributes:
        clock: of the run's budget.
        draw: random numbers that fix where trouble strikes.
        progress: of the run at the step that is taken; 0 during the warm-up.
        struck: the step at which trouble began; None: not yet.

    Args:
        trainer: of the run, before its warm-up.
        seed: of ``draw``.
        clock: of the run.
    """

    def __init__(self, trainer: Trainer, seed: int, clock: Clock) -> None:
        self.trainer, self.clock = trainer, clock
        self.seed, self.draw = seed, random.Random(seed)
        self.progress, self.step = 0.0, 0
        self.struck: int | None = None

    @contextmanager
    def before_steps(self, look: Callable[[], object]) -> Iterator[None]:
        """Call ``look`` before each step, when ``step`` and ``progress`` are known."""
        take = self.trainer.step

        def looked(step: int, moment: Moment, variant: Variant | None = None) -> Tensor:
            self.step, self.progress = step, moment.progress
            look()
            return take(step, moment, variant)

        with replaced(self.trainer, "step", looked):
            yield

    @contextmanager
    def gradients(self, change: Callable[[list[Tensor]], object]) -> Iterator[None]:
        """Call ``change`` with the gradients of each step before they are applied."""
        steps, model = self.trainer.steps, self.trainer.model
        accumulate = steps.accumulate

        def changed(variant: Variant, batches: Any) -> None:
            accumulate(variant, batches)
            change([p.grad for p in model.parameters() if p.grad is not None])

        with replaced(steps, "accumulate", changed):
            yield

    def strike(self) -> None:
        """Record that there is trouble now."""
        if self.struck is None:
            self.struck = self.step
