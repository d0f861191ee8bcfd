"""The loop takes each step as its stage and the swarm's choices say, from any checkpoint."""

from typing import Any

import pytest
import torch

from model.plan import plan
from runtime import checkpoint
from runtime.progress import Progress
from runtime.run_folder import RunFolder, read_log
from settings.variants import Variant, stage_variants
from training.loop import Loop
from training.pace import FIRST_STEP, Start
from training.resuming import load_checkpoint
from training.schedule import Moment
from training.trainer import batch_shape

STAGES = [{"until": 0.5, "train_batch_tokens": 96, "train_seq_len": 8}, {"until": 1.0}]
STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
NOWHERE = Progress(None, None, enabled=False)


def loop_of(trainer, steering: Any = None, start: Start = FIRST_STEP) -> Loop:
    return Loop(trainer, trainer.settings, None, NOWHERE, lambda *_: 1.0, steering, start)


def watched(trainer) -> list[Variant]:
    """Return the list to which every step's variant is added."""
    taken, take = [], trainer.step

    def step(number, moment, variant=None):
        taken.append(variant)
        return take(number, moment, variant)

    trainer.step = step
    return taken


def test_the_iterations_decide_the_stage_without_a_clock(make_trainer):
    trainer = make_trainer(iterations=6, stages=STAGES)
    taken = watched(trainer)
    loop_of(trainer).run()
    first, last = stage_variants(trainer.settings)
    assert taken == [first] * 3 + [last] * 3
    assert trainer.loader.position == 3 * 96 + 3 * 192


def test_the_rate_follows_the_stages_factor_from_its_first_step(make_trainer):
    stages = [STAGES[0] | {"lr_factor": 0.5}, STAGES[1]]
    trainer = make_trainer(iterations=6, stages=stages)
    rates, take = [], trainer.step

    def step(*arguments):
        taken = take(*arguments)
        rates.append(trainer.levers.value("lr_scale"))
        return taken

    trainer.step = step
    loop_of(trainer).run()
    assert rates == [0.5] * 3 + [1.0] * 3


def test_the_clock_decides_the_stage(make_trainer, monkeypatch):
    trainer = make_trainer(iterations=10_000, wallclock=100.0, stages=STAGES)
    taken = watched(trainer)
    loop = loop_of(trainer)
    monkeypatch.setattr(loop.budget, "elapsed", lambda: 9.0 * loop.step)
    loop.run()
    first, last = stage_variants(trainer.settings)
    assert taken == [first] * 6 + [last] * 5


NETWORK = {"loop_layers": [1], "num_loops": 1, "mtp_num_heads": 2}
FIELDS = [
    {"train_batch_tokens": 96},
    {"loops": 0},
    {"window": 3},
    {"documents": True},
    {"mtp_num_heads": 1},
]


@pytest.mark.parametrize("field", FIELDS)
def test_a_step_computes_what_its_variant_says(make_trainer, field):
    stages = [{"until": 0.5, **field}, {"until": 1.0}]
    trainer, twin = (make_trainer(stages=stages, **NETWORK) for _ in range(2))
    other, variant = trainer.variants
    found = trainer.step(0, STEADY, variant)
    weight = trainer.levers["mtp_weight"]
    visits = plan(twin.model.config, variant.loops, variant.window, variant.documents)
    (batch,) = twin.loader.next_step(batch_shape(variant, twin.settings, 1))
    loss, nats = twin.model(
        batch.tokens, batch.targets, plan=visits, heads=variant.heads, mtp_weight=weight
    )
    loss.backward()
    gradients = [p.grad.flatten() for p in twin.model.parameters() if p.grad is not None]
    assert found[0].item() == pytest.approx(nats.mean().item(), rel=1e-6)
    assert found[1].item() == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-5)
    third = make_trainer(stages=stages, **NETWORK)
    assert third.step(0, STEADY, other)[1] != found[1]


class Chooser:
    """Stands in for a swarm that chooses one MTP head after the second step."""

    kept, decided, slots = None, {}, ()
    reads = frozenset()

    def __init__(self) -> None:
        self.steps = 0

    @property
    def choices(self) -> dict[str, float]:
        return {"heads": 1.0} if self.steps >= 2 else {}

    def due(self, step: int, progress: float) -> bool:
        return False

    def add(self, *numbers: object) -> None:
        self.steps += 1


def test_a_choice_of_the_swarm_is_taken_in_every_stage(make_trainer):
    trainer = make_trainer(iterations=6, stages=STAGES, mtp_num_heads=2, swarm_heads=[1])
    taken = watched(trainer)
    loop_of(trainer, Chooser()).run()
    assert [(variant.seq_len, variant.heads) for variant in taken] == [
        (8, 2),
        (8, 2),
        (8, 1),
        (16, 1),
        (16, 1),
        (16, 1),
    ]


@pytest.mark.parametrize("until", [1, 2, 3, 4, 5])
def test_a_run_resumes_in_any_stage_bit_for_bit(make_trainer, tmp_path, until):
    changes = {"iterations": 6, "stages": STAGES}
    straight, first, second = (make_trainer(**changes) for _ in range(3))
    loop_of(straight).run()
    folder = RunFolder.create(tmp_path / "run", "x", {})
    begun = Loop(first, first.settings, folder, NOWHERE, lambda *_: 1.0)
    begun.steps(until)
    begun._save(1.0)
    start = load_checkpoint(folder.path, second, None, folder)
    assert start.step == until
    of_stages = [3, until - 3] if until > 3 else [until]
    assert [steps for _, steps, _ in start.pace] == of_stages
    loop_of(second, start=start).run()
    ours, theirs = second.state.tensors(), straight.state.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert second.state.numbers() == straight.state.numbers()


def test_a_checkpoint_that_counts_windows_goes_on_with_the_same_tokens(make_trainer, tmp_path):
    straight, first, second = (make_trainer(iterations=6) for _ in range(3))
    loop_of(straight).run()
    loop_of(first).steps(4)
    old = {"position": 4 * 192 // 16, "step": 4, "elapsed": 1.0}
    checkpoint.save(tmp_path / "checkpoints", 4, first.state.tensors(), old)
    start = load_checkpoint(tmp_path, second, None, None)
    assert start == Start(4, 1.0)
    assert second.loader.position == 4 * 192
    loop_of(second, start=start).run()
    ours, theirs = second.state.tensors(), straight.state.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_log_tells_when_the_variant_changes_and_rates_count_tokens(make_trainer, tmp_path):
    trainer = make_trainer(iterations=4, stages=STAGES)
    folder = RunFolder.create(tmp_path / "run", "x", {})
    loop = Loop(trainer, trainer.settings, folder, NOWHERE, lambda *_: 1.0)
    seconds = iter(range(1, 100))
    loop.budget.elapsed = lambda: float(next(seconds))
    loop.run()
    events = list(read_log(folder.log_file))
    changes = [(e["step"], e["seq_len"]) for e in events if e["kind"] == "variant"]
    assert changes == [(0, 8), (2, 16)]
    tokens = [96, 192, 384, 576]
    rates = [e["tokens_per_second"] for e in events if e["kind"] == "step"]
    seconds_of = [total / rate for total, rate in zip(tokens, rates, strict=True)]
    assert seconds_of == pytest.approx([round(each) for each in seconds_of])
