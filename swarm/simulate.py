"""Runs to try a swarm on without a GPU: synthetic ones, or those recorded in a run's log.

A synthetic run has 3,200 steps and ends by the clock; the rate cools down in the last 800. Its
loss falls with a power of the step, with noise.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from reading.structured import Form, checked
from swarm.decision_log import Record, cycle_record
from swarm.levers import KEEP, KEPT, ROLLBACK
from swarm.mesh import Cycle
from swarm.steering import Steering

STEPS, COOLDOWN = 3200, 800
TROUBLE = range(800, 1200)  # steps
KINDS = ("calm", "spike", "divergence", "plateau", "slow", "nan-storm")


class Row(NamedTuple):
    """A step: ``progress`` and ``lr_scale`` at its launch, loss and gradient norm at its end."""

    step: int
    progress: float
    lr_scale: float
    loss: float
    gradient_norm: float


class Step(Form):
    """A step in a run's log; a loss that is not finite is None there."""

    step: int
    progress: float
    lr_scale: float
    loss: float | None
    gradient_norm: float | None


class SyntheticRun:
    """A run of one of ``KINDS``; iterate over its rows, and call ``obey`` with each cycle.

    - calm: no trouble.
    - spike: for ten steps gradients are ten times as large.
    - divergence: in the time of trouble the loss climbs, unless the rate is under 0.3 of the
      schedule's; only a restored copy of the weights undoes the climb.
    - plateau: from the time of trouble on the loss does not fall.
    - slow: a third of the speed, so the clock ends the run after a third of the steps.
    - nan-storm: in the first half of the time of trouble a third of the steps is not finite.
    """

    def __init__(self, kind: str, seed: int = 0) -> None:
        self.kind, self._draw = kind, random.Random(seed)
        self._steps = STEPS // 3 if kind == "slow" else STEPS
        self._factor = 1.0
        self.lost = 0.0
        self._lost_in_copy = {KEPT: 0.0}

    def obey(self, cycle: Cycle) -> None:
        """Use the cycle's levers, copy the weights, restore the copy."""
        self._factor = cycle.levers["lr_factor"]
        if cycle.keep:
            self._lost_in_copy[cycle.changed[KEEP]] = self.lost
        if cycle.rollback:
            self.lost = self._lost_in_copy[cycle.changed[ROLLBACK]]

    def __iter__(self) -> Iterator[Row]:
        for step in range(self._steps):
            left = self._steps - step
            lr_scale = min(1.0, left / min(COOLDOWN, self._steps / 2))
            norm, noise = 0.3 * math.exp(0.15 * self._draw.gauss(0, 1)), self._draw.gauss(0, 1)
            loss = _loss(step) + 0.03 * noise
            row = Row(step, step / self._steps, lr_scale, loss, norm)
            yield self._troubled(row, 0.03 * noise) if step >= TROUBLE.start else row

    def _troubled(self, row: Row, noise: float) -> Row:
        since = row.step - TROUBLE.start
        if self.kind == "spike" and since < 10:
            return row._replace(loss=row.loss + 0.3, gradient_norm=10 * row.gradient_norm)
        if self.kind == "plateau":
            return row._replace(loss=_loss(TROUBLE.start) + noise)
        if self.kind == "nan-storm" and since < 200 and self._draw.random() < 1 / 3:
            return row._replace(loss=math.nan, gradient_norm=math.inf)
        if self.kind == "divergence":
            self.lost += 0.004 if self._factor > 0.3 and row.step in TROUBLE else 0.0
            norm = row.gradient_norm * (1 + 3 * self.lost)
            return row._replace(loss=row.loss + self.lost, gradient_norm=norm)
        return row


def _loss(step: int) -> float:
    return 2.0 + 5.0 * (step + 10) ** -0.4


def recorded(events: Iterable[dict]) -> Iterator[Row]:
    """Yield the steps of a run's log: all of them with ``train_log_every`` 1, else samples.

    Raises:
        ValueError: an event of a step has another form.
    """
    for event in events:
        if event.get("kind") == "step":
            step = checked(event, Step)
            loss, norm = (math.nan if n is None else n for n in (step.loss, step.gradient_norm))
            yield Row(step.step - 1, step.progress, step.lr_scale, loss, norm)


def simulate(
    steering: Steering, rows: Iterable[Row], obey: Callable[[Cycle], None] | None = None
) -> list[Record]:
    """Let a swarm steer rows as if they were a run; return its cycles as in the decision log.

    Args:
        steering: the swarm.
        rows: of the run, in order.
        obey: called with each cycle before the next row.
    """
    records, interval = [], None
    for row in rows:
        before, interval = interval, row.step // steering.every
        if before is not None and interval > before:
            cycle = steering.cycle(row.step, row.progress, row.lr_scale)
            record = cycle_record(len(records) + 1, cycle)
            records.append(record | {"microseconds": steering.microseconds[-1]})
            if obey:
                obey(cycle)
        steering.add(row.loss, row.gradient_norm)
    return records
