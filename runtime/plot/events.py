"""A run's log as columns of numbers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import printable
from runtime.records import read_log

Event = dict[str, object]


@dataclass(frozen=True)
class Events:
    """The events of a log that a picture shows; a field that an event lacks is NaN.

    Attributes:
        name: of the run.
        steps, validations, decisions, variants: events of these kinds, in order.
    """

    name: str
    steps: Sequence[Event]
    validations: Sequence[Event]
    decisions: Sequence[Event]
    variants: Sequence[Event]

    @classmethod
    def read(cls, log: Path) -> "Events":
        """Return the events of a ``log.jsonl``."""
        kinds: dict[str, list[Event]] = defaultdict(list)
        for event in read_log(log):
            kinds[str(event.get("kind"))].append(event)
        found = (kinds[kind] for kind in ("step", "validation", "decision", "variant"))
        return cls(printable(log.resolve().parent.name), *found)

    @property
    def elapsed(self) -> np.ndarray:
        """Seconds of training at each step."""
        return column(self.steps, "elapsed")

    @property
    def loss(self) -> np.ndarray:
        """Training loss of each step, nats."""
        return column(self.steps, "loss")

    def time_of(self, events: Sequence[Event]) -> np.ndarray:
        """Return the seconds of training at the steps of events."""
        numbers = column(self.steps, "step")
        known = np.isfinite(numbers) & np.isfinite(self.elapsed)
        if not known.any():
            return np.full(len(events), np.nan)
        return np.interp(column(events, "step"), numbers[known], self.elapsed[known])

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return seconds and bits per byte of what was validated more than once, by name."""
        return {
            name: (column(events, "elapsed"), column(events, "bpb"))
            for name, events in self._validated().items()
            if len({event.get("step") for event in events}) > 1
        }

    def scores(self) -> dict[str, float]:
        """Return the last bits per byte of each kind of weights and method, the best first."""
        last = {name: number(events[-1], "bpb") for name, events in self._validated().items()}
        finite = {name: bpb for name, bpb in last.items() if np.isfinite(bpb)}
        return dict(sorted(finite.items(), key=lambda item: item[1]))

    def _validated(self) -> dict[str, list[Event]]:
        found: dict[str, list[Event]] = defaultdict(list)
        for event in self.validations:
            found[plain(f"{event.get('weights')}, {event.get('method')}")].append(event)
        return found


def plain(text: str) -> str:
    """Return text that matplotlib draws as it is: no formula, no control character, no essay."""
    return printable(text[:80]).replace("$", r"\$")


def column(events: Sequence[Event], field: str) -> np.ndarray:
    """Return a field of each event, fp64."""
    return np.array([number(event, field) for event in events], dtype=np.float64)


def number(event: Event, field: str) -> float:
    """Return a field as a number; NaN if it is none."""
    value = event.get(field)
    return float(value) if isinstance(value, int | float) else np.nan


def smoothed(values: np.ndarray, radius: int) -> np.ndarray:
    """Return the mean of the finite values within ``radius`` indices of each.

    NaN where the value itself is not finite, so that trouble shows as a gap.
    """
    if not values.size:
        return values
    finite = np.isfinite(values)
    window = np.ones(2 * radius + 1)
    total = np.convolve(np.where(finite, values, 0.0), window)[radius : radius + len(values)]
    count = np.convolve(finite, window)[radius : radius + len(values)]
    mean = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return np.where(finite, mean, np.nan)
