"""On a GPU: a step as a replay of graphs is the step itself, and follows every lever."""

import numpy as np
import pytest
import torch

from runtime import micro_batches
from tests.training.lost_step import check_it_costs_itself_alone
from training.schedule import Moment
from training.trainer import Trainer
from training.warm_up import warm_up

pytestmark = pytest.mark.gpu
STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
SETTLED = 6  # steps after which all is replayed
ACCUMULATED = {"micro_batch_tokens": 8192}
# More micro-batches than eager calls: these end in the middle of a step.
IN_FOUR = {"micro_batch_tokens": 4096}


def losses(trainer: Trainer, steps: range) -> list[float]:
    # A replay writes its numbers where the last one did.
    return [trainer.step(step, STEADY)[0].item() for step in steps]


def same(one: Trainer, other: Trainer) -> bool:
    mine, theirs = one.state.tensors(), other.state.tensors()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    "changes", [{}, ACCUMULATED, IN_FOUR], ids=["whole", "accumulated", "in four"]
)
def test_replays_train_bit_for_bit_as_launches_do(make_wide, monkeypatch, changes):
    replayed = make_wide(backend="kernels", **changes)
    found = losses(replayed, range(50))
    assert len(replayed.micro_batches.graphs) == (2 if changes else 1)
    monkeypatch.setattr(micro_batches, "EAGER_CALLS", 10**9)
    launched = make_wide(backend="kernels", **changes)
    assert losses(launched, range(50)) == found
    assert not launched.micro_batches.graphs
    assert same(replayed, launched)


def test_warm_up_leaves_no_trace(make_wide):
    """Nor do its kernels that were recorded instead of launched."""
    cold, warm = make_wide(backend="kernels"), make_wide(backend="kernels")
    warm_up(warm, SETTLED)
    assert losses(warm, range(SETTLED)) == losses(cold, range(SETTLED))
    assert same(warm, cold)


@pytest.mark.parametrize(
    ("lever", "value"),
    [("clip", 0.01), ("mtp_weight", 0.5), ("qat", 1.0), ("kg_weight", 1.0), ("lr_factor", 0.5)],
)
def test_a_lever_changes_the_training_of_graphs_captured_before(make_wide, lever, value):
    changes = {"backend": "kernels", "late_qat_threshold": 0.1, "mtp_num_heads": 1}
    scores = np.linspace(0, 1, 1024, dtype=np.float32)
    trainer, twin = make_wide(scores, **changes), make_wide(scores, **changes)
    for each in (trainer, twin):
        losses(each, range(SETTLED))
    assert same(trainer, twin)
    graphs = dict(trainer.micro_batches.graphs)
    trainer.levers.decide(**{lever: value})
    losses(trainer, range(SETTLED, SETTLED + 2))
    losses(twin, range(SETTLED, SETTLED + 2))
    assert trainer.micro_batches.graphs == graphs
    assert not torch.equal(trainer.model.qo_bank, twin.model.qo_bank)


def test_a_gradient_that_is_not_finite_costs_its_step_alone(make_wide):
    check_it_costs_itself_alone(lambda: make_wide(backend="kernels"))
