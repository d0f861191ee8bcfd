"""Seconds a step takes, by variant: measured when steps finish, so that nothing waits."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from settings import Settings
from settings.variants import CHOICES, Variant


class Start(NamedTuple):
    """Where a run's steps begin: at 0, or at a checkpoint.

    Attributes:
        step: number of steps taken.
        elapsed: seconds that they took.
        pace: of each variant, as ``Pace.state``; empty if the checkpoint has none.
        trained: whether these are all steps of the run's budget.
        course: as ``training.choosing.Course.state``; empty if the checkpoint has none.
        warmed: seconds of a step in the warm-up, by variant, the same on every rank.
        probe: as ``training.probe.Probe.state``; empty if the checkpoint has none.
        others_gib: most GiB of the GPU that other processes had.
        copies: by slot of the swarm's copies, as ``training.snapshots.Snapshots.tensors``.
    """

    step: int = 0
    elapsed: float = 0.0
    pace: Sequence[tuple[Mapping[str, Any], int, float]] = ()
    trained: bool = False
    course: Mapping[str, Any] = MappingProxyType({})
    warmed: Mapping[Variant, float] = MappingProxyType({})
    probe: Mapping[str, Any] = MappingProxyType({})
    others_gib: float = 0.0
    copies: Mapping[float, Mapping[str, Tensor]] = MappingProxyType({})


FIRST_STEP = Start()
TRAINED = "trained"  # in a checkpoint's state: the budget that its steps have used up


def budget_of(settings: Settings) -> list[float]:
    """Return what limits a run's steps. With more of it, a trained run is trained further."""
    return [settings.wallclock, settings.iterations]


def tokens_of(variant: Variant) -> float:
    """Return the tokens of a variant's step."""
    return variant.batch_tokens


class Pace:
    """The mean seconds of a step of each variant.

    The time between two calls of ``finished`` belongs to the steps that finished in it. So a mean
    includes everything that training time is spent on, such as checkpoints.

    Args:
        start: of the steps. Earlier steps of unknown variants count as steps of the first one's.
        work: returns what the seconds of a variant's step are proportional to, as far as is known
            before one has run; the times of the warm-up say it better.
    """

    def __init__(
        self, start: Start = FIRST_STEP, work: Callable[[Variant], float] = tokens_of
    ) -> None:
        self._work, self._warmed = work, start.warmed
        self._done, self._at, pace, *_ = start
        self._flight: deque[Variant] = deque()
        # Steps of one variant in a row: the variant, and when the first of them began.
        self._variant: Variant | None = None
        self._since = (self._done, self._at) if pace else (0, 0.0)
        # Steps and seconds of each variant before that, and of all finished steps.
        self._before = {Variant(**variant): (steps, seconds) for variant, steps, seconds in pace}
        self._known = dict(self._before)

    def launched(self, variant: Variant) -> None:
        """Record that a step was launched."""
        self._flight.append(variant)

    def finished(self, pending: int, elapsed: float) -> None:
        """Record that all launched steps but the last ``pending`` are finished.

        Args:
            elapsed: seconds of training so far, as the ranks agreed.
        """
        began, count = self._at, len(self._flight) - pending
        for number in range(1, count + 1):
            variant = self._flight.popleft()
            if variant != self._variant:
                self._begin(variant)
            self._done += 1
            self._at = began + (elapsed - began) * number / count
        self._at = elapsed
        self._known = self._totals()

    def of(self, variant: Variant) -> float:
        """Return seconds a step; of a variant that has not run yet, by the warm-up or its work."""
        known = self._known
        if total := known.get(variant):
            steps, seconds = total
            return seconds / steps
        if not known:
            return self._at / self._done if self._done else 0.0
        timed = self._warmed.keys() >= {variant, *known}
        work_of = self._warmed.__getitem__ if timed else self._work
        work = sum(steps * work_of(each) for each, (steps, _) in known.items())
        return sum(seconds for _, seconds in known.values()) / work * work_of(variant)

    def ahead(self) -> float:
        """Return seconds that the unfinished steps take."""
        return sum(map(self.of, self._flight))

    def state(self) -> list[list[Any]]:
        """Return variant, steps and seconds of each variant, as plain JSON."""
        return [
            [asdict(variant), steps, seconds] for variant, (steps, seconds) in self._known.items()
        ]

    def _begin(self, variant: Variant) -> None:
        if self._variant is not None:
            self._before, self._since = self._totals(), (self._done, self._at)
        self._variant = variant

    def _totals(self) -> dict[Variant, tuple[int, float]]:
        totals = dict(self._before)
        if self._variant is not None:
            steps, seconds = totals.get(self._variant, (0, 0.0))
            done, at = self._since
            totals[self._variant] = steps + self._done - done, seconds + (self._at - at)
        return {variant: total for variant, total in totals.items() if total[0]}


def step_ms(pace: Pace, variant: Variant, settings: Settings) -> list[float] | None:
    """Return the value of signal ``step_ms``; None as long as a pace is not known.

    Args:
        pace: of the run so far.
        variant: in force.
        settings: of the run, with the options of each choice.
    """
    options = [
        replace(variant, **{field: option})
        for field, setting in CHOICES.items()
        for option in getattr(settings, setting)
    ]
    found = [1000 * pace.of(each) for each in (variant, *options)]
    return found if all(found) else None
