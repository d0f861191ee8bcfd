"""On a GPU: stages by the clock under captured graphs, and a resumed second stage."""

import pytest

from runtime.progress import Progress
from runtime.run_folder import RunFolder, read_log
from settings.variants import stage_variants
from training.loop import Loop
from training.pace import FIRST_STEP, Start
from training.resuming import load_checkpoint
from training.trainer import Trainer
from training.warm_up import warm_up

pytestmark = pytest.mark.gpu
FIRST = {"train_batch_tokens": 8192, "train_seq_len": 1024, "window": 256, "mtp_num_heads": 0}
NOWHERE = Progress(None, None, enabled=False)


def loop_of(trainer: Trainer, folder: RunFolder | None, start: Start = FIRST_STEP) -> Loop:
    warm_up(trainer, 1)
    return Loop(trainer, trainer.settings, folder, NOWHERE, lambda *_: 0.0, None, start)


@pytest.mark.alone
def test_the_clock_switches_stages_and_is_kept(make_wide, tmp_path):
    stages = [{"until": 0.4, **FIRST}, {"until": 1.0, "documents": True}]
    changes = {"wallclock": 3.0, "iterations": 10**6, "warmdown_iters": 20, "stages": stages}
    trainer = make_wide(backend="kernels", **changes)
    folder = RunFolder.create(tmp_path / "run", "x", {})
    loop = loop_of(trainer, folder)
    loop.run()
    first, last = stage_variants(trainer.settings)
    slowest = loop.pace.of(last)
    assert 0 < loop.pace.of(first) < slowest
    assert 3.0 - 4 * slowest <= loop.budget.elapsed() <= 3.0 + slowest
    switches = [e for e in read_log(folder.log_file) if e["kind"] == "variant"]
    assert [e["documents"] for e in switches] == [False, True]
    switch = switches[1]["step"]
    assert switch * loop.pace.of(first) == pytest.approx(1.2, rel=0.2)
    assert trainer.loader.position == switch * 8192 + (loop.step - switch) * 16_384


def test_a_resumed_second_stage_has_the_same_losses(make_wide, tmp_path):
    stages = [{"until": 0.5, **FIRST}, {"until": 1.0, "documents": True}]
    changes = {"wallclock": 0.0, "iterations": 8, "train_log_every": 1, "stages": stages}
    folders = [RunFolder.create(tmp_path / name, "x", {}) for name in ("whole", "stopped")]
    whole, stopped, resumed = (make_wide(backend="kernels", **changes) for _ in range(3))
    loop_of(whole, folders[0]).run()
    begun = loop_of(stopped, folders[1])
    begun.steps(6)
    begun._save(begun.budget.elapsed())
    start = load_checkpoint(folders[1].path, resumed, None, folders[1])
    loop_of(resumed, folders[1], start).run()
    losses = [
        [event["loss"] for event in read_log(folder.log_file) if event["kind"] == "step"]
        for folder in folders
    ]
    assert len(losses[0]) == 8
    assert losses[1] == losses[0]
