"""Levers of an optimizer's step, as its kernels read them."""

import math

import torch

from kernels.optimizer.step_levers import StepLevers
from tests.kernels.tools.twins import DEVICE

NEUTRAL = {
    "lr_scale": 1.0,
    "momentum": 0.9,
    "decay_factor": 1.0,
    "clip": 0.0,
    "skip_norm": math.inf,
    "averaging_decay": 0.9,
}


def make_levers(**changes: float) -> StepLevers:
    """All levers, those not named as in ``NEUTRAL``."""
    values = NEUTRAL | changes
    return StepLevers(**{name: torch.tensor(x, device=DEVICE) for name, x in values.items()})
