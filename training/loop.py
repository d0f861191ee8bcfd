"""The training loop: steps until the budget is spent; log, validation, checkpoints in between."""

import gc
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from runtime import checkpoint
from runtime.progress import Progress
from runtime.run_folder import RunFolder
from settings import Settings
from swarm.levers import KEEP
from swarm.steering import Steering
from training.budget import Budget
from training.metrics import Finished, Metrics
from training.schedule import Moment, Schedule
from training.trainer import Trainer

# Steps queued ahead, so that the GPU never waits for the host; 0 on a CPU. The budget includes
# them.
AHEAD_ON_GPU = 1
COLLECT_EVERY = 50  # steps between collections of garbage
REHEARSALS = 3  # of a cycle of the swarm


class Interruption(Exception):  # noqa: N818 - it is no error
    """Raised after SIGTERM or SIGINT, when a checkpoint of ``step`` has been written."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"interrupted after step {step}")
        self.step, self.signal_number = step, signal_number


class Signals:
    """Records SIGTERM and SIGINT in its context, so that the loop reacts between two steps."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        # A second signal ends the process at once.
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def no_collection() -> Iterator[None]:
    """Disable the automatic collection of garbage, and exempt all present objects from it."""
    was = gc.isenabled()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()


class Loop:
    """The training loop of one run.

    Args:
        trainer: takes the steps.
        settings: of the run.
        folder: of rank 0, which writes it; None on other ranks.
        progress: the progress line.
        validate: given steps and seconds, returns the live weights' bpb; called off the clock
            every ``val_loss_every`` steps.
        steering: the swarm; None: settings and schedule alone.
        step, elapsed: of the checkpoint of a resumed run.
        reserved: seconds at the end of the wallclock that are not for steps.
    """

    def __init__(
        self,
        trainer: Trainer,
        settings: Settings,
        folder: RunFolder | None,
        progress: Progress,
        validate: Callable[[int, float], float],
        steering: Steering | None = None,
        step: int = 0,
        elapsed: float = 0.0,
        reserved: float = 0.0,
    ) -> None:
        self.trainer, self.settings, self.folder = trainer, settings, folder
        self.progress, self.validate, self.steering = progress, validate, steering
        if steering:
            trainer.levers.decide(**steering.decided)
            trainer.snapshots.allocate_buffers()
            if steering.kept is not None:  # checkpoints hold no snapshot: take one of this state
                trainer.snapshots.take()
        self.step = step
        self.budget = Budget(settings.wallclock, settings.iterations, elapsed, reserved)
        self.schedule = Schedule.of(settings)
        self.metrics = Metrics(trainer.update.groups, trainer.outgoing)
        self.ahead = AHEAD_ON_GPU if trainer.world.device.type == "cuda" else 0
        self.saved_at = elapsed
        self.bpb: float | None = None
        self._moments: dict[int, tuple[Moment, float]] = {}

    def run(self) -> None:
        """Step until the next step would not fit, and write a checkpoint.

        Raises:
            Interruption: after a checkpoint, if a signal came.
        """
        self.steps()
        self._save(self.budget.elapsed())

    def steps(self, most: float = math.inf) -> None:
        """Step until the next step would not fit or ``most`` are taken; raises as ``run``."""
        last = self.step + most
        self.budget.start()
        with Signals() as signals, no_collection():
            while self.step < last and self._step_if_it_fits(signals):
                pass
        self._land()
        self.budget.stop()

    def _step_if_it_fits(self, signals: Signals) -> bool:
        if self.step % COLLECT_EVERY == 0:
            gc.collect()  # here, because the host is about to wait
        self._report(self.metrics.collect(self.ahead))
        pending = len(self.metrics)
        elapsed, interrupted = self.trainer.world.agree(self.budget.elapsed(), signals.received > 0)
        if interrupted:
            self._land()
            self._save(elapsed)
            raise Interruption(self.step, signals.received or signal.SIGTERM)
        if not self.budget.fits(self.step, elapsed, pending):
            return False
        self._step(elapsed, pending)
        self._between_steps(elapsed)
        return True

    def _step(self, elapsed: float, pending: int) -> None:
        mean_step = self.budget.mean_step(self.step, elapsed, pending)
        begins, reserved = elapsed + pending * mean_step, self.budget.reserved
        now = self.schedule.at(self.step, begins, mean_step, reserved)
        self._moments[self.step] = (now, elapsed)
        if self.steering and self.steering.due(self.step):
            self._steer(self.steering, now)
        self.metrics.push(self.step, self.trainer.step(self.step, now))
        self.step += 1

    def _steer(self, steering: Steering, now: Moment) -> None:
        """Run a cycle of the swarm before the next step, and obey; only a restore waits."""
        for _ in range(REHEARSALS if self.ahead else 0):  # the host would wait for the GPU anyway
            steering.rehearse(self.step, now.progress, now.lr_scale)
        cycle = steering.cycle(self.step, now.progress, now.lr_scale)
        self.trainer.levers.decide(**steering.decided)
        if cycle.rollback:
            self._land()
            self.trainer.snapshots.restore()
        elif cycle.keep:
            self.trainer.snapshots.take()
        for lever, value in cycle.changed.items():
            if self.folder and lever != KEEP:
                self.folder.log("decision", step=self.step, lever=lever, value=value)

    def _between_steps(self, elapsed: float) -> None:
        every = self.settings.val_loss_every
        if every and self.step % every == 0:
            self._land()
            with self.budget.paused():
                self.bpb = self.validate(self.step, elapsed)
        minutes = self.settings.checkpoint_minutes
        if minutes and elapsed - self.saved_at >= 60 * minutes:
            self._land()
            self._save(elapsed)

    def _land(self) -> None:
        """Wait for the device to finish every step."""
        self._report(self.metrics.collect(0))
        if self.trainer.world.device.type == "cuda":
            torch.cuda.synchronize()

    def _save(self, elapsed: float) -> None:
        """Write a checkpoint on rank 0; a full disk loses the checkpoint, not the run."""
        self.saved_at = elapsed
        tensors = self.trainer.state.tensors()
        if self.folder is None:
            return
        state = self.trainer.state.numbers() | {"step": self.step, "elapsed": elapsed}
        if self.steering:
            state["swarm"] = self.steering.state()
        try:
            checkpoint.save(self.folder.checkpoints, self.step, tensors, state)
            self.folder.log("checkpoint", step=self.step, elapsed=elapsed)
        except OSError as error:
            self.folder.log("checkpoint_failed", step=self.step, error=str(error))
            self.progress.phase(f"no checkpoint at step {self.step}: {error}")

    def _report(self, finished: list[Finished]) -> None:
        for done in finished:
            now, started = self._moments.pop(done.step)
            if self.steering:
                self.steering.add(done.loss, done.gradient_norm, {"int6_error": done.int6_error})
            elapsed = self.budget.elapsed()
            rate = (done.step + 1) * self.settings.train_batch_tokens / max(elapsed, 1e-9)
            seconds_left = self.settings.wallclock - elapsed if self.settings.wallclock else None
            self.progress.update(done.step + 1, done.loss, rate, seconds_left, self.bpb)
            if self.folder and self._is_logged(done.step):
                self.folder.log(
                    "step",
                    step=done.step + 1,
                    elapsed=started,
                    loss=done.loss,
                    gradient_norm=done.gradient_norm,
                    skipped=done.skipped,
                    groups=done.groups,
                    lr_scale=now.lr_scale,
                    momentum=now.momentum,
                    progress=now.progress,
                    qat=now.qat,
                    tokens_per_second=rate,
                )

    def _is_logged(self, step: int) -> bool:
        return step < 10 or (step + 1) % self.settings.train_log_every == 0
