"""The loop goes on when it can, and stops when it must."""

import gc
import os
import signal
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from runtime import checkpoint, signals
from runtime.progress import Progress
from runtime.run_folder import RunFolder, read_log
from training.loop import Interruption, Loop
from training.pace import FIRST_STEP, Start
from training.resuming import load_checkpoint


def make_loop(
    trainer, folder: RunFolder | None, validate=lambda *_: 1.0, start: Start = FIRST_STEP
) -> Loop:
    progress = Progress(None, None, enabled=False)
    return Loop(trainer, trainer.settings, folder, progress, validate, start=start)


def test_a_checkpoint_that_cannot_be_written_costs_the_checkpoint_not_the_run(
    make_trainer, tmp_path
):
    trainer = make_trainer(iterations=6, checkpoint_minutes=1e-9)
    folder = RunFolder.create(tmp_path / "run", "x", {})
    folder.checkpoints.write_text("a file where the folder should be")
    loop = make_loop(trainer, folder)
    loop.run()
    assert loop.step == 6
    events = list(read_log(folder.log_file))
    assert [e["step"] for e in events if e["kind"] == "checkpoint_failed"] == [1, 2, 3, 4, 5, 6, 6]
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_signals_are_the_loops_only_while_it_steps(make_trainer, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(iterations=50, val_loss_every=3)
    folder = RunFolder.create(tmp_path / "run", "x", {})

    def interrupt(*_: object) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    with pytest.raises(Interruption) as stopped:
        make_loop(trainer, folder, interrupt).run()
    assert stopped.value.step == 3
    assert stopped.value.signal_number == signal.SIGTERM
    newest = checkpoint.latest(folder.checkpoints)
    assert newest is not None
    assert newest.name == "step_000003"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_slow_disk_may_outlast_the_patience_with_a_signal(make_trainer, tmp_path, monkeypatch):
    """Another rank is lost meanwhile, so that nothing but the loop's word keeps the process."""
    ended: list[int] = []
    monkeypatch.setattr(signals, "PATIENCE", 1.0)
    monkeypatch.setattr("runtime.signals.os._exit", ended.append)
    save = checkpoint.save

    def slowly(*given: Any) -> Path:
        time.sleep(1.5)
        return save(*given)

    monkeypatch.setattr(checkpoint, "save", slowly)
    trainer = make_trainer(iterations=50, val_loss_every=3)
    folder = RunFolder.create(tmp_path / "run", "x", {})
    loop = make_loop(trainer, folder, lambda *_: os.kill(os.getpid(), signal.SIGTERM) or 1.0)
    with signals.SIGNALS:
        signals.SIGNALS.lost = lambda: True
        with pytest.raises(Interruption):
            loop.run()
        time.sleep(1.5)  # in which the other ranks are told
    assert ended == []
    assert checkpoint.latest(folder.checkpoints) is not None


def test_a_resumed_run_knows_of_other_processes_before(make_trainer, tmp_path, monkeypatch):
    """Its steps were slower than they are now; the summary has them all."""
    trainer = make_trainer(iterations=4)
    folder = RunFolder.create(tmp_path / "run", "x", {})
    loop = make_loop(trainer, folder)
    monkeypatch.setattr("training.loop.memory_of_others", lambda device: 5.0)
    loop.run()
    monkeypatch.undo()
    start = load_checkpoint(folder.path, trainer, None, None)
    assert make_loop(trainer, None, start=start).others_gib == 5.0


def test_validation_time_is_not_training_time(make_trainer):
    def slow(*_: object) -> float:
        time.sleep(0.3)
        return 1.0

    trainer = make_trainer(iterations=4, val_loss_every=1)
    loop = make_loop(trainer, None, slow)
    began = time.perf_counter()
    loop.run()
    assert time.perf_counter() - began > 1.2
    assert loop.budget.elapsed() < time.perf_counter() - began - 1.1


class Ring:
    """Only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_between_steps_and_at_no_other_moment(make_trainer, monkeypatch):
    monkeypatch.setattr("training.loop.COLLECT_EVERY", 3)
    rings: list[weakref.ref] = []
    left: list[int] = []
    collections: list[str] = []

    def make_garbage(*_: object) -> float:
        left.append(sum(ring() is not None for ring in rings))
        collections.clear()
        # Far beyond what starts a collection of Python's own.
        rings.extend(weakref.ref(Ring()) for _number in range(2000))
        assert not collections
        return 1.0

    def note(phase: str, info: dict[str, int]) -> None:
        collections.append(phase)

    gc.callbacks.append(note)
    try:
        make_loop(make_trainer(iterations=7, val_loss_every=1), None, make_garbage).run()
    finally:
        gc.callbacks.remove(note)
    # Collected before steps 0, 3 and 6; validation follows each step.
    assert left == [0, 2000, 4000, 0, 2000, 4000, 0]
    assert gc.isenabled()
