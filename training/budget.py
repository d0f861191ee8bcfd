"""The wallclock budget of a run: counts training time, and says whether a step still fits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


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
