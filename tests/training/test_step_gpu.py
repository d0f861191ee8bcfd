"""On a GPU: a step as a replay of graphs is the step itself, and follows every lever."""

import numpy as np
import pytest
import torch

from tests.training.lost_step import check_it_costs_itself_alone
from training.schedule import Moment
from training.trainer import Trainer
from training.warm_up import warm_up

pytestmark = pytest.mark.gpu
STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
ACCUMULATED = {"micro_batch_tokens": 8192}
IN_FOUR = {"micro_batch_tokens": 4096}


def losses(trainer: Trainer, steps: range) -> list[float]:
    # A replay writes its numbers where the last one did.
    return [trainer.step(step, STEADY)[0].item() for step in steps]


def is_captured(trainer: Trainer) -> bool:
    return trainer.steps.gradients[trainer.variants[0]].captured


def same(one: Trainer, other: Trainer) -> bool:
    mine, theirs = one.state.tensors(), other.state.tensors()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    "changes", [{}, ACCUMULATED, IN_FOUR], ids=["whole", "accumulated", "in four"]
)
def test_replays_train_bit_for_bit_as_launches_do(make_wide, changes):
    """Nor does warm-up leave a trace, with its kernels that were recorded instead of launched."""
    replayed, launched = (make_wide(backend="kernels", **changes) for _ in range(2))
    warm_up(replayed, 3)
    assert is_captured(replayed)
    assert losses(replayed, range(50)) == losses(launched, range(50))
    assert not is_captured(launched)
    assert same(replayed, launched)


@pytest.mark.parametrize(
    ("lever", "value"),
    [("clip", 0.01), ("mtp_weight", 0.5), ("qat", 1.0), ("kg_weight", 1.0), ("lr_factor", 0.5)],
)
def test_a_lever_changes_the_training_of_graphs_captured_before(make_wide, lever, value):
    changes = {"backend": "kernels", "late_qat_threshold": 0.1, "mtp_num_heads": 1}
    scores = np.linspace(0, 1, 1024, dtype=np.float32)
    trainer, twin = make_wide(scores, **changes), make_wide(scores, **changes)
    for each in (trainer, twin):
        warm_up(each, 0)
        losses(each, range(2))
    assert same(trainer, twin)
    trainer.levers.decide(**{lever: value})
    losses(trainer, range(2, 4))
    losses(twin, range(2, 4))
    assert not torch.equal(trainer.model.qo_bank, twin.model.qo_bank)


def test_a_gradient_that_is_not_finite_costs_its_step_alone(make_wide):
    def make() -> Trainer:
        trainer = make_wide(backend="kernels")
        warm_up(trainer, 0)
        return trainer

    check_it_costs_itself_alone(make)
