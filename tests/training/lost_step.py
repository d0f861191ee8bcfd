"""A step whose gradient is not finite, in a trainer of any device."""

from collections.abc import Callable

import pytest
import torch

from training.schedule import Moment
from training.trainer import Trainer

STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
LOST, STEPS = 30, 60


def check_it_costs_itself_alone(make: Callable[[], Trainer]) -> None:
    """Weights, moments and averages are as if there had been no such step; it is counted."""
    trainer = make()
    backward, losses, skipped = trainer.steps.accumulate, [], []

    def poisoned_once(variant, batches):
        backward(variant, batches)
        if len(losses) == LOST:
            gradient = trainer.model.smear_gate.grad
            assert gradient is not None
            gradient[3] = float("nan")

    trainer.steps.accumulate = poisoned_once
    for step in range(STEPS):
        before = {name: t.clone() for name, t in trainer.state.tensors().items()}
        loss, _, count = trainer.step(step, STEADY)[:3].tolist()
        losses.append(loss)
        skipped.append(count)
        after = trainer.state.tensors()
        unchanged = all(torch.equal(before[name], after[name]) for name in before)
        assert unchanged == (step == LOST)
    assert skipped == [0] * LOST + [1] * (STEPS - LOST)
    other = make()
    clean = [other.step(step, STEADY)[0].item() for step in range(STEPS)]
    assert sum(losses[-10:]) == pytest.approx(sum(clean[-10:]), rel=0.02)
