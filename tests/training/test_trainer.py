"""A step moves what it should, each lever changes the training, and warm-up leaves no trace."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from settings.variants import accumulation_of, stage_variants
from tests.training.lost_step import check_it_costs_itself_alone
from training.schedule import Moment
from training.snapshots import holding
from training.warm_up import warm_up

STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)


def run(trainer, steps: int, moment: Moment = STEADY) -> list[float]:
    return [trainer.step(step, moment)[0].item() for step in range(steps)]


def weights(trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


GATES = {"gate_window": 4, "smear_window": 4, "skip_gates": True, "value_residual": True}


@pytest.mark.parametrize(
    "changes", [{"gated_attention": True, "value_residual": True}, GATES], ids=["options", "gates"]
)
def test_every_parameter_moves_and_the_loss_falls(make_trainer, changes):
    trainer = make_trainer(**changes, tie_embeddings=False)
    before = weights(trainer)
    losses = run(trainer, 30)
    after = weights(trainer)
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert still == []
    assert losses[-1] < losses[0] - 0.5


def test_mtp_heads_learn(make_trainer):
    trainer = make_trainer(mtp_num_heads=2)
    assert trainer.model.mtp_heads.abs().max() == 0
    run(trainer, 5)
    assert all(head.norm() > 0.01 for head in trainer.model.mtp_heads)


def test_targets_after_the_next_weigh_less_as_the_run_goes_on(make_trainer):
    """What they add to the loss of a step is gone by two thirds of the run."""

    def moved(progress: float, **changes: int) -> Tensor:
        trainer = make_trainer(mtp_num_heads=0, **changes)
        trainer.step(0, replace(STEADY, progress=progress))
        return trainer.model.tok_emb.detach().clone()

    plain = moved(0.0)
    early, late, over = (moved(progress, mtp_targets=2) for progress in (0.0, 0.5, 0.7))
    assert torch.equal(over, plain)
    assert not torch.equal(early, late) and not torch.equal(late, plain)


def test_two_runs_of_one_seed_are_equal_bit_for_bit_and_another_seed_differs(make_trainer):
    first, second, other = make_trainer(), make_trainer(), make_trainer(seed=1)
    assert run(first, 8) == run(second, 8)
    assert same(weights(first), weights(second))
    assert run(other, 8) != run(make_trainer(), 8)


def test_accumulation_changes_nothing_but_rounding(make_trainer):
    whole, parts = make_trainer(), make_trainer(micro_batch_tokens=48)
    counts = [
        accumulation_of(stage_variants(each.settings)[0], each.settings, 1)
        for each in (whole, parts)
    ]
    assert counts == [1, 4]
    assert run(whole, 10) == pytest.approx(run(parts, 10), rel=1e-5)


@pytest.mark.parametrize(
    ("lever", "changed"),
    [
        ("mtp_weight", {"mtp_loss_weight": 0.5}),
        ("clip", {"grad_clip_norm": 0.01}),
        ("no clip", {"grad_clip_norm": 0.0}),
    ],
)
def test_lever_moves_the_training(make_trainer, lever, changed):
    plain, moved = make_trainer(), make_trainer(**changed)
    run(plain, 6)
    run(moved, 6)
    assert not torch.equal(plain.model.tok_emb, moved.model.tok_emb), lever


@pytest.mark.parametrize(
    "moment",
    [
        Moment(progress=0.0, lr_scale=0.5, momentum=0.95, qat=False),
        Moment(progress=0.0, lr_scale=1.0, momentum=0.8, qat=False),
    ],
)
def test_schedule_moves_the_training(make_trainer, moment):
    plain, moved = make_trainer(), make_trainer()
    run(plain, 4)
    run(moved, 4, moment)
    assert not torch.equal(plain.model.qo_bank, moved.model.qo_bank)


def test_qat_lever_moves_the_banks_and_is_nothing_while_off(make_trainer):
    never = make_trainer()
    off, on = make_trainer(late_qat_threshold=0.1), make_trainer(late_qat_threshold=0.1)
    for trainer in (never, off):
        run(trainer, 4)
    run(on, 4, Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=True))
    assert same(weights(never), weights(off))
    assert not torch.equal(off.model.down_bank, on.model.down_bank)


def test_clip_bounds_the_gradient_over_all_parameters(make_trainer):
    from training.optimizer import clip_

    trainer = make_trainer()
    trainer.steps.accumulate(trainer.variants[0], trainer.loader.next_step())
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    expected = torch.cat([g.double().flatten() for g in gradients]).norm()
    norm = clip_(gradients, torch.tensor(0.05))
    assert norm.item() == pytest.approx(expected.item(), rel=1e-5)
    clipped = torch.cat([g.double().flatten() for g in gradients]).norm()
    assert clipped.item() == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("averaging", ["ema", "lawa"])
def test_warm_up_leaves_no_trace(make_trainer, averaging):
    changes = {"averaging": averaging, "lawa_freq": 2, "lawa_k": 3}
    cold, warm = make_trainer(**changes), make_trainer(**changes)
    torch.manual_seed(5)
    random_before = torch.get_rng_state()
    warm_up(warm, 5)
    assert torch.equal(torch.get_rng_state(), random_before)
    assert warm.state.numbers() == cold.state.numbers()
    assert run(cold, 6) == run(warm, 6)
    cold_state, warm_state = cold.state.tensors(), warm.state.tensors()
    assert cold_state.keys() == warm_state.keys()
    assert same(cold_state, warm_state)


def test_state_taken_back_continues_bit_for_bit(make_trainer):
    straight, first, second = make_trainer(), make_trainer(), make_trainer()
    run(straight, 8)
    for step in range(5):
        first.step(step, STEADY)
    second.state.load(
        {name: t.clone() for name, t in first.state.tensors().items()}, first.state.numbers()
    )
    for step in range(5, 8):
        second.step(step, STEADY)
    assert same(straight.state.tensors(), second.state.tensors())


def test_holding_other_weights_is_undone(make_trainer):
    trainer = make_trainer()
    run(trainer, 12)
    before = weights(trainer)
    tokens = torch.randint(0, 64, (2, 16), dtype=torch.int32)
    raw = trainer.model.score(tokens, tokens)
    with holding(trainer.model, trainer.averaging.weights(), trainer.world):
        assert not torch.equal(trainer.model.score(tokens, tokens), raw)
    assert same(before, weights(trainer))


def test_a_gradient_that_is_not_finite_costs_its_step_alone(make_trainer):
    check_it_costs_itself_alone(lambda: make_trainer(averaging="ema"))


def test_what_was_kept_last_comes_back_and_averages_restart_from_it(make_trainer):
    trainer = make_trainer(averaging="ema")
    trainer.snapshots.take()
    run(trainer, 3)
    trainer.snapshots.take()
    kept = {name: t.clone() for name, t in trainer.state.tensors().items()}
    for step in range(3, 8):
        trainer.step(step, STEADY)
    position = trainer.loader.position
    trainer.snapshots.restore()
    for name, tensor in trainer.state.tensors().items():
        source = name.replace("average.", "model.")
        assert torch.equal(tensor, kept[source]), name
    assert trainer.loader.position == position


def test_snapshots_of_weights_that_are_left_are_averaged_no_more(make_trainer):
    trainer = make_trainer(averaging="lawa", lawa_freq=2)
    trainer.snapshots.take()
    run(trainer, 3)
    assert trainer.averaging.weights()
    trainer.snapshots.restore()
    assert not trainer.averaging.weights()


def test_there_is_nothing_to_restore_before_the_first_snapshot(make_trainer):
    trainer = make_trainer()
    before = weights(trainer)
    trainer.snapshots.allocate_buffers()
    with pytest.raises(KeyError):
        trainer.snapshots.restore()
    assert same(before, weights(trainer))


def test_snapshots_use_the_buffers_allocated_before_them(make_trainer):
    trainer = make_trainer(averaging="ema")
    trainer.snapshots.allocate_buffers()
    addresses = [tensor.data_ptr() for tensor in trainer.snapshots._buffers.values()]
    trainer.snapshots.take()
    run(trainer, 2)
    trainer.snapshots.take()
    live = trainer.state.weights_and_moments()
    assert [tensor.data_ptr() for tensor in trainer.snapshots._buffers.values()] == addresses
    for name, tensor in live.items():
        assert torch.equal(trainer.snapshots._buffers[name], tensor), name


def test_a_gradient_above_the_skip_lever_costs_its_step_alone(make_trainer):
    trainer = make_trainer()
    run(trainer, 1)
    before = weights(trainer)
    trainer.levers.decide(skip_norm=1e-6)
    assert trainer.step(1, STEADY)[2] == 1
    assert same(before, weights(trainer))
    trainer.levers.decide(skip_norm=1e6)
    assert trainer.step(2, STEADY)[2] == 1
    assert not same(before, weights(trainer))
