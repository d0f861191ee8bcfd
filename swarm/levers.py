"""The levers: the numbers of a training step that agents may change, and their limits.

This is the one place where a lever is declared: a field of ``LeverValues`` and a line in
``limits``. ``training.device_levers`` holds the values in device memory.
"""

from typing import NamedTuple

UNREACHED = 3e38  # a norm that fp32 can represent and no finite gradient reaches
# Requests to the training loop. The mesh decides them like a lever that changes from 0 to 1: copy
# the weights and moments, and restore the latest copy.
KEEP, ROLLBACK = REQUESTS = ("keep", "rollback")


class LeverValues(NamedTuple):
    """One value of every lever."""

    clip: float = 0.0
    """Largest global gradient norm; 0: no clip."""
    kg_weight: float = 0.0
    """Weight of the knowledge graph's scores in the loss."""
    lr_factor: float = 1.0
    """Factor on the scheduled learning rates."""
    mtp_weight: float = 0.0
    """Weight of the MTP heads' mean loss."""
    qat: float = 0.0
    """Above 0.5: train with int6-rounded weights."""
    skip_norm: float = UNREACHED
    """A step with a larger gradient norm changes nothing."""


class Limit(NamedTuple):
    """Limits of a lever's changes.

    low, high: range of the value.
    most, least: largest and smallest change in one cycle.
    hold: cycles after a change before the lever may change in the other direction (hysteresis), or
        before a request may be granted again.
    """

    low: float
    high: float
    most: float
    least: float
    hold: int


def limits(start: LeverValues) -> dict[str, Limit]:
    """Return the limits of all levers and requests of a run.

    Args:
        start: values at the start of the run; the clip's limits are multiples of its start value.
    """
    clip = start.clip
    return {
        KEEP: Limit(0.0, 1.0, 1.0, 1.0, 0),
        ROLLBACK: Limit(0.0, 1.0, 1.0, 1.0, 3),
        "clip": Limit(clip / 16, clip, clip / 2, clip / 64, 2),
        "kg_weight": Limit(0.0, max(1.0, start.kg_weight), 0.5, 0.001, 2),
        "lr_factor": Limit(1 / 16, 1.0, 0.5, 1 / 64, 2),
        "mtp_weight": Limit(0.0, max(1.0, start.mtp_weight), 0.5, 0.001, 2),
        "qat": Limit(0.0, 1.0, 1.0, 1.0, 1000),
        "skip_norm": Limit(1e-6, UNREACHED, UNREACHED, 0.0, 2),
    }


def value_of(lever: str, levers: LeverValues) -> float:
    """Return a lever's value; that of a request is 0 in every cycle."""
    return 0.0 if lever in REQUESTS else getattr(levers, lever)
