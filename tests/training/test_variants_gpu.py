"""On a GPU: variants of a step, captured in one run and switched back and forth."""

from collections.abc import Sequence

import pytest
import torch

from bench.harness.timeline import timeline, traced
from bench.step.variants import CAPTURE_S, IDLE_US, take
from tests.training.test_steering_gpu import no_syncs
from tests.training.test_step_gpu import STEADY, same
from training.opening import captured
from training.trainer import Trainer
from training.warm_up import warm_up

pytestmark = pytest.mark.gpu
# The last one comes first; the second has fewer gradients, the others more micro-batches or bounds.
STAGES = [
    {"until": 0.2, "loops": 0, "window": 512},
    {"until": 0.4, "loops": 0, "documents": True, "train_batch_tokens": 8_192},
    {"until": 0.6, "loops": 0, "train_seq_len": 1024, "train_batch_tokens": 32_768},
    {"until": 0.8, "loops": 0, "mtp_num_heads": 0},
    {"until": 1.0},
]
LOOPED = {"backend": "kernels", "loop_layers": [3, 4, 5], "num_loops": 1, "mtp_num_heads": 1}
CHANGES = {**LOOPED, "stages": STAGES, "micro_batch_tokens": 16_384}
ORDER = (0, 1, 0, 2, 3, 4, 1, 1, 4, 3, 2, 0, 4, 0, 3, 1, 2)


def losses(trainer: Trainer, order: Sequence[int] = ORDER) -> list[float]:
    # A replay writes its numbers where the last one did.
    return [
        trainer.step(step, STEADY, trainer.variants[index])[0].item()
        for step, index in enumerate(order)
    ]


def test_variants_switched_back_and_forth_are_their_launches_bit_for_bit(make_wide):
    replayed, launched = make_wide(**CHANGES), make_wide(**CHANGES)
    warm_up(replayed, 0)
    assert len(replayed.variants) == len(STAGES)
    assert all(gradients.captured for gradients in replayed.steps.gradients.values())
    assert losses(replayed) == losses(launched)
    assert not any(gradients.captured for gradients in launched.steps.gradients.values())
    assert same(replayed, launched)


def test_the_first_variant_of_several_is_the_only_one_of_a_run(make_wide):
    """Further captures in the same memory change nothing."""
    several, one = make_wide(**CHANGES), make_wide(**LOOPED, micro_batch_tokens=16_384)
    assert several.variants[0] == one.variants[0]
    for trainer in (several, one):
        warm_up(trainer, 1)
    assert losses(several, [0] * 8) == losses(one, [0] * 8)
    assert same(several, one)


def test_a_variant_without_heads_leaves_them_and_their_moments(make_wide):
    trainer = make_wide(**CHANGES)
    warm_up(trainer, 0)
    heads = "model.mtp_heads"
    losses(trainer, (0, 0))
    before = {name: t.clone() for name, t in trainer.state.tensors().items()}
    assert trainer.variants[1].heads == 0
    losses(trainer, (1, 1))
    after = trainer.state.tensors()
    kept = [name for name in before if name.endswith("mtp_heads")]
    assert heads in kept
    assert len(kept) == 3  # and two moments
    assert all(torch.equal(before[name], after[name]) for name in kept)
    losses(trainer, (0,))
    assert not torch.equal(before[heads], trainer.state.tensors()[heads])


@pytest.mark.alone
def test_switches_launch_nothing_outside_of_replays_and_the_device_does_not_wait(make_wide):
    trainer = make_wide(**CHANGES)
    warm_up(trainer, 3)
    take(trainer, trainer.variants)
    with no_syncs():
        take(trainer, trainer.variants)
    trace = timeline(traced(lambda: take(trainer, trainer.variants * 4)))
    assert trace.launches == 0
    assert max(trace.gaps) <= IDLE_US


@pytest.mark.alone
def test_each_further_variant_takes_at_most_two_seconds_and_little_memory(make_wide):
    trainer = make_wide(**CHANGES)
    warm_up(trainer, 0)
    assert list(trainer.steps.costs) == list(trainer.variants)
    for variant, cost in trainer.steps.costs.items():
        print(captured(variant, cost))
    first, *further = trainer.steps.costs.values()
    assert first.bytes > 0
    assert all(cost.seconds <= CAPTURE_S for cost in further)
    assert all(0 <= cost.bytes < first.bytes for cost in further)


def test_a_closed_trainer_gives_its_graphs_memory_back(make_wide):
    trainer = make_wide(**CHANGES)
    warm_up(trainer, 0)
    graphs = trainer.steps.graphs
    assert graphs is not None
    before = graphs.bytes
    trainer.close()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert graphs.bytes < before / 4
