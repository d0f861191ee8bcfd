"""The levers: the values of a training step that may change between two steps, and their limits.

A lever is one row of ``LEVERS`` and the code that reads its value: ``training.device_levers`` holds
the numbers in device memory, where kernels read them by name.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from settings.variants import CHOICES

if TYPE_CHECKING:
    from settings import Settings

UNREACHED = 3e38  # a norm that fp32 can represent and no finite gradient reaches
CHOICE_HOLD = 2  # cycles
STAGED = -1  # value of a choice that is not decided yet: the stage of the run determines it
# Standard errors at which a bid passes: more for what a run cannot take back, because heads that it
# left out, or visits that it added, have had other steps than the rest.
SURE_OF = {"window": 1.0, "loops": 1.6, "heads": 1.6}
# Requests to the training loop. The mesh decides them like a lever that changes from 0 to 1: copy
# the weights and moments, restore the latest copy, and shrink weights that are far too large.
KEEP, ROLLBACK, RESCALE = REQUESTS = ("keep", "rollback", "rescale")
LOWEST_RATE, SMALLEST_STEP = 1 / 16, 1 / 64  # of the scheduled rate
# Values of a request: the copy that agents ask for, and that of the state before a trial.
KEPT, TRIED = SLOTS = (1.0, 2.0)

# Weights of the losses in the targets after the next, on the main head's logits.
FURTHER_TARGETS = ("second_target", "third_target")

LeverValues = Mapping[str, float]
"""Values of levers by name."""


class Number(NamedTuple):
    """Limits of the changes of a number.

    low, high: range of the value.
    most, least: largest and smallest change in one cycle.
    hold: cycles after a change before the lever may change in the other direction (hysteresis), or
        before a request may be granted again.
    sure: standard errors over zero at which a bid passes; None: those of a confident proposal.
    """

    low: float
    high: float
    most: float
    least: float
    hold: int
    sure: float | None = None

    def allowed(self, value: float) -> float:
        """Return the value of the range that is nearest to ``value``; NaN if that is no number."""
        return min(max(value, self.low), self.high)

    def direction(self, before: float, value: float) -> bool:
        """Return whether the value rises. Proposals in one direction support each other."""
        return value > before

    def moved(self, before: float, value: float) -> float:
        """Return the value after a change from ``before`` towards ``value`` in one cycle."""
        if abs(value - before) < self.least:
            return before
        return min(max(value, before - self.most), before + self.most)


class Choice(NamedTuple):
    """Limits of the changes of a choice: a whole number that picks what a step computes.

    options: values that agents may propose.
    hold: cycles after a change before the lever may change again.
    sure: as of ``Number``.
    """

    options: tuple[int, ...]
    hold: int
    sure: float | None = None

    def allowed(self, value: float) -> float:
        """Return the option that ``value`` is; NaN if it is none."""
        return next((option for option in self.options if option == value), math.nan)

    def direction(self, before: float, value: float) -> int:
        """Return the option, because only proposals of the same option support each other."""
        return int(value)

    def moved(self, before: float, value: float) -> float:
        """Return the option: it replaces ``before`` in one cycle."""
        return value


Limits = Number | Choice


@dataclass(frozen=True)
class Lever:
    """One row of the table.

    Attributes:
        name: unique.
        start: returns the value of a run before the first decision and the first step.
        limits: returns the limits of the agents' changes in a run, or None if no agent may change
            the lever in this run. None: no agent ever may, because the schedule sets the lever.
        field: whether the lever is a field of ``settings.variants.Variant``, which the host reads
            between two steps. Otherwise it is a number in device memory, which kernels read.
    """

    name: str
    start: Callable[["Settings"], float]
    limits: Callable[["Settings"], Limits | None] | None = None
    field: bool = False


def choice(field: str, setting: str) -> Lever:
    """Return the row of a choice between the options that a setting lists; none: no such lever."""

    def limits_of(settings: "Settings") -> Choice | None:
        options = getattr(settings, setting)
        sure = SURE_OF.get(field) if settings.swarm_agents == "frontier" else None
        return Choice(tuple(options), CHOICE_HOLD, sure) if options else None

    return Lever(field, lambda _: STAGED, limits_of, field=True)


RATES = Number(LOWEST_RATE, 1.0, 0.5, SMALLEST_STEP, 2)
MEMORY = Number(1 / 16, 16.0, 16.0, 1 / 64, 2)


def clip_limits(settings: "Settings") -> Number:
    """Return the clip's limits, which are multiples of its value at the start."""
    clip = settings.grad_clip_norm
    return Number(clip / 16, clip, clip / 2, clip / 64, 2)


def graph_weight(settings: "Settings") -> float:
    """Return the start value of ``kg_weight``; 0 without a graph."""
    return settings.kg_loss_weight if settings.kg_scores else 0.0


def weight_limits(start: float) -> Number:
    """Return the limits of the weight of a loss."""
    return Number(0.0, max(1.0, start), 0.5, 0.001, 2)


# The order is that of the block of numbers in device memory, which leaves out fields of a variant.
LEVERS: tuple[Lever, ...] = (
    # Largest global gradient norm; 0: no clip.
    Lever("clip", lambda run: run.grad_clip_norm, clip_limits),
    # Weight of the knowledge graph's scores in the loss.
    Lever("kg_weight", graph_weight, lambda run: weight_limits(graph_weight(run))),
    # Factor on the scheduled learning rates.
    Lever("lr_factor", lambda _: 1.0, lambda _: RATES),
    # Further factor on them, with which a step is as long as those of known runs.
    Lever("lr_fit", lambda _: 1.0, lambda run: RATES if run.swarm_agents == "frontier" else None),
    # Factor on the steps that the scheduled momentum remembers.
    Lever("memory", lambda _: 1.0, lambda run: MEMORY if run.swarm_agents == "frontier" else None),
    # Weight of the MTP heads' mean loss.
    Lever(
        "mtp_weight",
        lambda run: run.mtp_loss_weight,
        lambda run: weight_limits(run.mtp_loss_weight),
    ),
    # Above 0.5: train with int6-rounded weights.
    Lever("qat", lambda _: 0.0, lambda _: Number(0.0, 1.0, 1.0, 1.0, 1000)),
    # A step with a larger gradient norm changes nothing.
    Lever("skip_norm", lambda _: UNREACHED, lambda _: Number(1e-6, UNREACHED, UNREACHED, 0.0, 2)),
    # Factor on all learning rates: the schedule's, times ``lr_factor`` and ``lr_fit``.
    Lever("lr_scale", lambda _: 1.0),
    # Muon's momentum.
    Lever("momentum", lambda run: run.muon_momentum),
    # Factor on all weight decays.
    Lever("decay_factor", lambda _: 1.0),
    # Decay of the exponential averages, a step.
    Lever("averaging_decay", lambda run: run.ema_decay),
    # Share of its way from its average that a weight goes further.
    Lever("lean", lambda _: 0.0),
    *(Lever(name, lambda _: 0.0) for name in FURTHER_TARGETS),
    *(choice(field, setting) for field, setting in CHOICES.items()),
)
FIELDS = frozenset(lever.name for lever in LEVERS if lever.field)


def limits(settings: "Settings") -> dict[str, Limits]:
    """Return the limits of the levers that agents may change in a run, and of the requests."""
    found: dict[str, Limits] = {
        KEEP: Number(0.0, 1.0, 1.0, 1.0, 0),
        ROLLBACK: Number(0.0, 1.0, 1.0, 1.0, 3),
    }
    if settings.swarm_agents == "frontier":
        found[RESCALE] = found[ROLLBACK]
    for lever in LEVERS:
        if lever.limits and (limit := lever.limits(settings)):
            found[lever.name] = limit
    return found


def start_values(settings: "Settings") -> dict[str, float]:
    """Return the values, before the first decision, of the levers that agents may change."""
    bounds = limits(settings)
    return {lever.name: lever.start(settings) for lever in LEVERS if lever.name in bounds}


def in_force(name: str, decided: LeverValues, scheduled: LeverValues) -> float:
    """Return a lever's value in force: the swarm's decision, or else the scheduled value.

    Raises:
        KeyError: there is no such lever.
    """
    return decided.get(name, scheduled[name])
