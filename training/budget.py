"""The wallclock budget of a run: counts training time, and says whether a step still fits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from settings import Settings
from settings.variants import Variant, visited_tokens
from training.pace import Pace, Start


class Budget:
    """Counts seconds of training after the warm-up, without evaluation and export.

    Args:
        seconds: of training; 0: no limit.
        iterations: largest number of steps.
        elapsed: seconds that the run spent before it was resumed.
        reserved: seconds at the end of the budget that are not for steps.
    """

    def __init__(
        self, seconds: float, iterations: int, elapsed: float = 0.0, reserved: float = 0.0
    ) -> None:
        self.seconds, self.iterations, self.reserved = seconds, iterations, reserved
        self._spent = elapsed
        self._since: float | None = None

    def start(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock; spent seconds stay spent."""
        self._spent, self._since = self.elapsed(), None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock during work that is not training."""
        self.stop()
        yield
        self.start()

    def elapsed(self) -> float:
        """Return seconds of training so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._spent + running

    def spend(self, work: Variant | str) -> None:
        """Count a step, or other work, that is done; nothing, because the clock has counted it."""

    def takes(self, work: str, measured: float) -> float:
        """Return the seconds that other work than a step counts."""
        return measured

    def landed(self, elapsed: float) -> float:
        """Return the seconds of a state whose steps are all finished.

        Args:
            elapsed: seconds before the last of them finished, as the ranks agreed.
        """
        return elapsed

    def pace(self, start: Start, settings: Settings) -> Pace:
        """Return the pace of a run's steps."""
        return Pace(start, partial(visited_tokens, settings=settings))

    def fits(self, step: int, elapsed: float, ahead: float) -> bool:
        """Return whether step number ``step`` (from 0) still ends inside the budget.

        Args:
            step: the next one to be launched.
            elapsed: seconds so far, as the ranks agreed.
            ahead: seconds until the step will end: its own, and those of the launched steps that
                the device has not finished.
        """
        if step >= self.iterations:
            return False
        return self.seconds == 0 or elapsed + ahead <= self.seconds - self.reserved
