"""Signals that the update measures on the device, because an agent reads them.

A signal of ``swarm.telemetry.SIGNALS`` that a step must compute has a row in ``MEASURES``.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import Architecture
from settings import Settings
from swarm.telemetry import SIGNALS, WINDOWS
from training.metrics import ON_HOST
from training.parallel import Shards

PROBES = 32  # of a run, where an agent reads them
BARS = ("bar", "bar_error", "bar_step", "bar_change", "bar_change_error")
Measure = Callable[[], Tensor]
"""Launches what measures a signal, and returns its numbers, fp32 on the device. It runs in each
step when ``.grad`` of ``Shards.own`` is summed over ranks and not clipped yet."""


class Measured(NamedTuple):
    """What measures read of a run.

    config: of the network.
    shards: this rank's parameters.
    momentum: of this rank's part of each bank.
    beta: () fp32, the lever "momentum".
    windows: (2,) fp64, this rank's part of the mean of the windows' mean nats, and of the mean of
        their squares; None: nobody reads them.
    """

    config: Architecture
    shards: Shards
    momentum: Mapping[str, Tensor]
    beta: Tensor
    windows: Tensor | None


def measured_by(name: str, of: Measured) -> Measure:
    """Return what `training.gradient_signals`, which a contest's file leaves out, makes."""
    return getattr(import_module("training.gradient_signals"), name)(of)


MEASURES: dict[str, Callable[[Measured], Measure]] = {
    name: partial(measured_by, name)
    for name in ("layer_gradient_norms", "momentum_cosine", "noise_scale", "window_spread")
}
"""By name of the signal, what makes its measure."""


class Measures:
    """The measures of a run's signals.

    Args:
        reads: names of the signals that are read.
        of: the run.

    Attributes:
        sizes: how many numbers each measured signal has, by name, in the order of ``SIGNALS``.

    Raises:
        KeyError: a signal that is read is measured nowhere.
    """

    def __init__(self, reads: Iterable[str], of: Measured) -> None:
        reads, counts = set(reads), {"layers": of.config.num_layers}
        self.sizes: dict[str, int] = {}
        self._measures: dict[str, Measure] = {}
        for name, size, window in SIGNALS:
            if name not in reads or window not in WINDOWS or name in ON_HOST:
                continue
            if name not in MEASURES:
                raise KeyError(f"signal {name!r} is measured nowhere; add it to MEASURES")
            self.sizes[name] = counts[size] if isinstance(size, str) else size
            self._measures[name] = MEASURES[name](of)

    @torch.no_grad()
    def __call__(self) -> list[Tensor]:
        """Launch all measures; return their numbers, (size,) each."""
        return [measure().reshape(self.sizes[name]) for name, measure in self._measures.items()]


def probes_of(settings: Settings, reads: Collection[str]) -> int:
    """Return how often a run scores its held-out windows, whose agents read these signals."""
    if settings.probes is None:
        return PROBES * (not set(BARS).isdisjoint(reads))
    return settings.probes
