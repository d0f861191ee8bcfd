"""The troubles: each is a context in which a run has one, and which the swarm is not told of.

They strike at fractions of a run, so that runs of all lengths have the same. Seeds fix where.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.rescue.site import Site, replaced
from bench.rescue.texts import Garbled, InOrder, Repeated, Sorted
from data.batch import BatchShape
from training.budget import Budget
from training.schedule import Moment, Schedule

MIDDLE = 0.4  # of a run, where sudden troubles begin
BURST = 60 / 680  # of a run
FILLED_AHEAD = 4  # steps, at least as many as a loader fills
SLOW_FROM, SLOW, KILLED = 0.3, 2.0, 0.7
Plant = Callable[[Site], AbstractContextManager[Any]]


@contextmanager
def rate(site: Site, factor: float) -> Iterator[None]:
    """Learn at a multiple of all rates."""
    levers = site.trainer.levers
    schedule = levers.schedule

    def changed(**values: float) -> None:
        scaled = {"lr_scale": factor * values["lr_scale"]} if "lr_scale" in values else {}
        schedule(**values | scaled)

    site.strike()
    with replaced(levers, "schedule", changed):
        yield


@contextmanager
def momentum(site: Site, value: float) -> Iterator[None]:
    """Let the schedule have one momentum throughout."""
    at = Schedule.at

    def changed(schedule: Schedule, *given: Any) -> Moment:
        return replace(at(schedule, *given), momentum=value)

    site.strike()
    with replaced(Schedule, "at", changed):
        yield


@contextmanager
def garbled(site: Site) -> Iterator[None]:
    """Let 8 % of the text, one region, be uniform noise."""
    loader, text = site.trainer.loader, site.trainer.loader._stream
    size = int(0.08 * len(text))
    noise = np.random.default_rng(site.seed).integers(vocabulary(site), size=size, dtype=np.uint16)
    site.strike()
    with replaced(loader, "_stream", Garbled(text, site.draw.randrange(len(text) - size), noise)):
        yield


@contextmanager
def noisy_burst(site: Site) -> Iterator[None]:
    """Let whole batches be noise for a while."""
    loader, begin, end = site.trainer.loader, math.inf, math.inf
    fill = loader._fill

    def watch() -> None:
        nonlocal begin, end
        ahead = loader.position + FILLED_AHEAD * site.trainer.variants[0].batch_tokens
        if site.progress >= MIDDLE and begin == math.inf:
            site.strike()
            begin = ahead
        if site.progress >= MIDDLE + BURST and end == math.inf:
            end = ahead

    def filled(shape: BatchShape, position: int, buffer: Tensor) -> None:
        fill(shape, position, buffer)
        if begin <= position < end:
            draw = np.random.default_rng([site.seed, position])
            parts = buffer.numpy()
            length = parts.shape[-1] + 1
            for part in parts:
                noise = draw.integers(vocabulary(site), size=(part.shape[1], length))
                part[0], part[1] = noise[:, :-1], noise[:, 1:]

    with replaced(loader, "_fill", filled), site.before_steps(watch):
        yield


@contextmanager
def repeated(site: Site) -> Iterator[None]:
    """Let 10 % of the windows be copies of 50."""
    loader, text = site.trainer.loader, site.trainer.loader._stream
    pieces = [site.draw.randrange(len(text)) for _ in range(50)]
    site.strike()
    with replaced(loader, "_stream", Repeated(text, pieces, 10, site.seed)):
        yield


@contextmanager
def in_order(site: Site) -> Iterator[None]:
    """Read documents by their length, one after another."""
    loader = site.trainer.loader
    text = Sorted(loader._stream, site.trainer.settings.bos_id)
    site.strike()
    with replaced(loader, "_stream", text), replaced(loader, "_order", InOrder(len(text))):
        yield


@contextmanager
def nan_storm(site: Site) -> Iterator[None]:
    """Let 30 % of the steps of a tenth of the run have no finite gradients."""

    def spoil(gradients: list[Tensor]) -> None:
        if MIDDLE <= site.progress < MIDDLE + 0.1 and site.draw.random() < 0.3:
            site.strike()
            torch._foreach_mul_(gradients, math.nan)

    with site.gradients(spoil):
        yield


@contextmanager
def broken_row(site: Site) -> Iterator[None]:
    """Let one row of a bank become infinite."""
    model, name = site.trainer.model, site.draw.choice(("qo_bank", "up_bank", "down_bank"))
    bank = model.get_parameter(name)
    matrix, row = (site.draw.randrange(size) for size in bank.shape[:2])

    def break_it() -> None:
        if site.progress >= MIDDLE and site.struck is None:
            site.strike()
            bank.data[matrix, row] = math.inf

    with site.before_steps(break_it):
        yield


@contextmanager
def large_start(site: Site) -> Iterator[None]:
    """Begin with 30 times as large up projections."""
    site.trainer.model.up_bank.data *= 30
    site.trainer.averaging.restart()
    site.strike()
    yield


@contextmanager
def spikes(site: Site) -> Iterator[None]:
    """Let five steps have gradients a hundred times as large."""
    due = sorted((site.draw.uniform(0.2, 0.7) for _ in range(5)), reverse=True)

    def spike(gradients: list[Tensor]) -> None:
        if due and site.progress >= due[-1]:
            due.pop()
            site.strike()
            torch._foreach_mul_(gradients, 100.0)

    with site.gradients(spike):
        yield


@contextmanager
def slow(site: Site, begins: float = SLOW_FROM, speed: float = SLOW) -> Iterator[None]:
    """Let the clock go faster than the steps from a fraction of the run on."""

    def hurry() -> None:
        if site.progress >= begins and site.struck is None:
            site.strike()
            site.clock.hurry(speed)

    with site.before_steps(hurry):
        yield


@contextmanager
def killed(site: Site) -> Iterator[None]:
    """End the run at 70 %, without notice."""
    fits = Budget.fits

    def fits_not(budget: Budget, step: int, elapsed: float, ahead: float) -> bool:
        seconds = budget.seconds and budget.seconds - budget.reserved
        over = elapsed / seconds if seconds else step / budget.iterations
        if over >= KILLED:
            site.strike()
            return False
        return fits(budget, step, elapsed, ahead)

    with replaced(Budget, "fits", fits_not):
        yield


def vocabulary(site: Site) -> int:
    """Return the number of tokens."""
    return site.trainer.model.config.vocab_size


@dataclass(frozen=True)
class Trouble:
    """A row of the bench.

    Attributes:
        name: unique.
        plant: the context in which a run has it.
        told: what the oracle, which knows of it, has in its place; None: a clean run.
        sealed: whether it may only be scored, and nothing be fitted on it.
        length: fraction of a clean run's budget that the oracle has.
    """

    name: str
    plant: Plant
    told: Plant | None = None
    sealed: bool = True
    length: float = 1.0


# A run that knows of the slower clock has as many steps as it leaves, evenly.
EVENLY = 1 / (SLOW_FROM + (1 - SLOW_FROM) / SLOW)
TROUBLES = {
    trouble.name: trouble
    for trouble in (
        Trouble("lr x 3", partial(rate, factor=3.0)),
        Trouble("lr x 10", partial(rate, factor=10.0)),
        Trouble("garbage, spread", garbled, sealed=False),
        Trouble("garbage, burst", noisy_burst),
        Trouble("repeats", repeated),
        Trouble("NaN storm", nan_storm),
        Trouble("broken weights", broken_row, sealed=False),
        Trouble("large init", large_start),
        Trouble("spikes", spikes),
        Trouble("momentum 0.99", partial(momentum, value=0.99)),
        Trouble("momentum 0.5", partial(momentum, value=0.5)),
        Trouble("sorted data", in_order),
        Trouble("half speed", slow, told=partial(slow, begins=0.0, speed=EVENLY), sealed=False),
        Trouble("early end", killed, length=KILLED),
    )
}
