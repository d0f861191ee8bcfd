"""The probe: what the averaged weights are worth in the middle of a run."""

import math
import time
from collections.abc import Mapping
from typing import Any

from training.held_out import differences, mean_and_error
from training.trainer import Trainer

WINDOWS = 12
RESERVED = 1.25  # times what a rehearsal took
MOST_SHARE = 0.005  # of a run's clock for probes that no setting asks for


class Probe:
    """Scores the averaged weights at even shares of a run, on its first held-out windows.

    Args:
        trainer: of the run, which has held-out windows.
        state: as ``state`` returned it; empty: nothing is measured yet.

    Attributes:
        seconds: that a probe takes, as measured, or as a reference clock says.
    """

    def __init__(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        assert trainer.held_out
        self._trainer, self._held_out = trainer, trainer.held_out
        self._passed, self._nats = state.get("passed", 0), state.get("nats", [])
        self._count = min(WINDOWS, self._held_out.count)
        self._scores()  # compiles what it needs
        began = time.perf_counter()
        self._scores()
        took = RESERVED * (time.perf_counter() - began)
        self.seconds = trainer.world.agree(took, False)[0]

    def state(self) -> dict[str, Any]:
        """Return the state as JSON with NaN."""
        return {"passed": self._passed, "nats": self._nats}

    def due(self, progress: float) -> bool:
        """Return whether a share of the run has passed since the call before."""
        before, self._passed = self._passed, int(progress * (self._most() + 1))
        return self._passed > before

    def _most(self) -> int:
        """Return the probes of the run."""
        probes, settings = self._trainer.probes, self._trainer.settings
        if settings.probes is not None or not settings.wallclock:
            return probes
        return min(probes, int(MOST_SHARE * settings.wallclock / self.seconds))

    def measure(self, step: int) -> dict[str, float]:
        """Return the values of the signals ``bar...``; none where the weights are not finite.

        Args:
            step: number of steps so far.
        """
        nats, before = self._scores(), self._nats
        self._nats = nats
        if not all(map(math.isfinite, nats)):
            return {}
        bar, error = mean_and_error(nats)
        found = {"bar": bar, "bar_error": error, "bar_step": step}
        if before and all(map(math.isfinite, before)):
            change, error = mean_and_error(differences(nats, before))
            found |= {"bar_change": change, "bar_change_error": error}
        return found

    def _scores(self) -> list[float]:
        trainer = self._trainer
        trainer.snapshots.wait()  # copies read the weights that are exchanged
        averaged = trainer.averaging.weights()
        return self._held_out.nats(trainer.model, averaged, self._count)
