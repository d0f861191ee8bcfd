"""Steps of several variants: switching between them is each by itself, launched and replayed."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evaluation.ttt.sgd import learning_weights
from kernels.common import compiling
from runtime import micro_batches
from runtime.ranks import World
from runtime.startup import Done, unmeasured
from settings.variants import Variant
from tests.training.recorded_graphs import RecordedGraphs
from training.schedule import Moment
from training.trainer import Trainer

STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
STAGES = [
    {"until": 0.3, "train_batch_tokens": 96, "mtp_num_heads": 1, "window": 5, "documents": True},
    {"until": 0.6, "train_seq_len": 8, "loops": 1, "near_window": 2, "precision": "fp8"},
    {"until": 1.0, "mtp_num_heads": 0},
]
LOOPED = {"num_layers": 3, "loop_layers": [1], "num_loops": 1, "mtp_num_heads": 2}
NEAR = {"near_window": 3, "near_layers": [0]}
CHANGES = {**LOOPED, **NEAR, "stages": STAGES, "micro_batch_tokens": 96, "averaging": "ema"}
ORDER = (0, 1, 0, 2, 2, 1)


def run(trainer: Trainer, order: Sequence[int] = ORDER) -> list[list[float]]:
    return [
        trainer.step(step, STEADY, trainer.variants[index]).tolist()
        for step, index in enumerate(order)
    ]


def state(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.state.tensors().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def only(variant: Variant) -> dict[str, object]:
    """Settings of a run of this variant alone."""
    return {
        **CHANGES,
        "stages": [
            {
                "until": 1.0,
                "train_batch_tokens": variant.batch_tokens,
                "train_seq_len": variant.seq_len,
                "loops": variant.loops,
                "window": variant.window,
                "near_window": variant.near_window,
                "documents": variant.documents,
                "mtp_num_heads": variant.heads,
                "precision": variant.precision,
            }
        ],
    }


def test_switching_between_variants_is_each_of_them_by_itself(make_trainer):
    """A run of several variants equals runs of one each that hand on their state.

    They have the same data, whose order depends on the longest window of a run.
    """
    mixed, data = make_trainer(**CHANGES), make_trainer(**CHANGES)
    assert len(mixed.variants) == 3
    singles = [make_trainer(**only(variant)) for variant in mixed.variants]
    assert [single.variants for single in singles] == [(variant,) for variant in mixed.variants]
    before = singles[0]
    for step, index in enumerate(ORDER):
        single = singles[index]
        single._next_batches = data._next_batches
        single.state.load(state(before), before.state.numbers())
        alone = single.step(step, STEADY).tolist()
        assert mixed.step(step, STEADY, mixed.variants[index]).tolist() == alone
        before = single
    assert same(state(mixed), state(before))


def test_torch_compiles_a_function_of_each_variant(make_trainer, monkeypatch):
    """It limits how often one code object is compiled."""
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: compiled.append(function) or function
    )
    trainer, twin = make_trainer(**CHANGES, backend="compiled"), make_trainer(**CHANGES)
    assert len({id(function.__code__) for function in compiled}) == len(trainer.variants) == 3
    assert run(trainer, (0, 1, 2)) == run(twin, (0, 1, 2))


def test_a_variant_that_a_run_cannot_reach_is_refused(make_trainer):
    trainer = make_trainer()
    with pytest.raises(KeyError):
        trainer.step(0, STEADY, replace(trainer.variants[0], window=3))


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch):
    """``capture(trainer)``: its micro-batches are replayed from now on; its state stays."""

    def on(trainer: Trainer, done: Done = unmeasured) -> RecordedGraphs:
        graphs = RecordedGraphs()
        before, numbers = state(trainer), trainer.state.numbers()
        monkeypatch.setattr(trainer.steps, "graphs", graphs)
        monkeypatch.setattr(micro_batches, "EAGER_CALLS", 1)
        # Kernels have nothing to compile; the update decides on the host.
        monkeypatch.setattr(compiling, "compile_in_parallel", lambda done: nullcontext())
        monkeypatch.setattr(trainer.update, "capture", lambda _: None)
        trainer.prepare(STEADY, done)
        trainer.state.load(before, numbers)
        trainer.update.optimizer.skipped.zero_()
        return graphs

    return on


@pytest.mark.parametrize(
    "changes", [{}, {"micro_batch_tokens": 32}], ids=["two micro-batches", "six"]
)
def test_replays_of_variants_are_their_launches(make_trainer, capture, changes):
    replayed, launched = (make_trainer(**(CHANGES | changes)) for _ in range(2))
    graphs = capture(replayed)
    assert all(gradients.captured for gradients in replayed.steps.gradients.values())
    before = [recording.replays for recording in graphs.recorded]
    order = (0, 1, 0, 2)
    assert run(replayed, order) == run(launched, order)
    assert all(r.replays > count for r, count in zip(graphs.recorded, before, strict=True))
    assert same(state(replayed), state(launched))


def test_preparation_names_its_phases(make_trainer, capture):
    phases = []
    capture(make_trainer(**CHANGES), phases.append)
    dry_runs = ["dry run 1", "dry run 2", "dry run 3", "dry run of update"]
    assert phases == ["first batches", *dry_runs, "first launches", "captures"]


def test_all_variants_leave_their_gradients_where_the_update_reads_them(make_trainer, capture):
    """Until the trainer is closed; then it launches its steps."""
    trainer, twin = make_trainer(**CHANGES), make_trainer(**CHANGES)
    graphs = capture(trainer)
    before, numbers = state(trainer), trainer.state.numbers()
    found = []
    for variant in trainer.variants:
        trainer.step(0, STEADY, variant)
        gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
        found.append({name: g.data_ptr() for name, g in gradients.items() if g is not None})
    without, *with_heads = found
    assert "mtp_heads" not in without
    assert with_heads[0] == with_heads[1]
    assert without.items() < with_heads[0].items()
    trainer.close()
    trainer.state.load(before, numbers)
    replays = [recording.replays for recording in graphs.recorded]
    assert run(trainer, (0, 1)) == run(twin, (0, 1))
    assert [recording.replays for recording in graphs.recorded] == replays


def test_one_variant_has_no_copy_of_gradients(make_trainer, capture):
    trainer = make_trainer()
    (recording,) = capture(trainer).recorded
    names = {str(operation[0]) for operation in recording._operations}
    assert "aten._foreach_copy_.default" not in names


def test_replayed_test_time_training_is_launched_one(make_trainer):
    found = []
    for graphs in (None, RecordedGraphs()):
        trainer = make_trainer(ttt_chunk_tokens=64, ttt_batch_seqs=2, ttt_freeze_blocks=1)
        model, settings = trainer.model, trainer.settings
        world = World.single(torch.device("cpu"))
        with learning_weights(model, "reference", settings, 16, world) as learner:
            learner.graphs = graphs  # pyright: ignore[reportAttributeAccessIssue]
            tokens = torch.randint(64, (4, 17), dtype=torch.int32, generator=torch.manual_seed(3))
            for _ in range(2):
                learner.update(tokens, torch.arange(64).view(4, 16), 1.0)
            found.append({n: p.detach().clone() for n, p in model.named_parameters()})
    assert same(*found)
