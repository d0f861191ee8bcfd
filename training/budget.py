"""The wallclock budget of a run: what is counted, and which step is the last that fits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Counts seconds of training, from after warm-up; evaluation and export are not training.

    Args:
        seconds: of training; 0: no limit.
        iterations: most steps.
        elapsed: seconds that an earlier part of a resumed run has spent.
        reserved: seconds of the budget that steps leave to what comes after them.
    """

    def __init__(
        self, seconds: float, iterations: int, elapsed: float = 0.0, reserved: float = 0.0
    ) -> None:
        self.seconds, self.iterations, self.reserved = seconds, iterations, reserved
        self._spent = elapsed
        self._since: float | None = None

    def start(self) -> None:
        """Let the clock run."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Halt the clock; what was spent stays spent."""
        self._spent, self._since = self.elapsed(), None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Halt the clock around work that is not training."""
        self.stop()
        yield
        self.start()

    def elapsed(self) -> float:
        """Seconds of training so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._spent + running

    def fits(self, step: int, elapsed: float, pending: int) -> bool:
        """Whether step number ``step`` (from 0) still ends inside the budget.

        Args:
            step: to be launched.
            elapsed: seconds so far, as the ranks agreed.
            pending: steps launched before that the device has not finished.
        """
        if step >= self.iterations:
            return False
        if self.seconds == 0:
            return True
        end = elapsed + (pending + 1) * self.mean_step(step, elapsed, pending)
        return end <= self.seconds - self.reserved

    def mean_step(self, step: int, elapsed: float, pending: int) -> float:
        """Mean seconds of the steps that are done; 0 before the first is."""
        done = step - pending
        return elapsed / done if done > 0 else 0.0
