"""The training loop: steps until the budget is spent; log, validation, checkpoints in between."""

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from signal import SIGTERM
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from runtime import checkpoint
from runtime.device import memory_of_others
from runtime.graphs import no_collection
from runtime.progress import Progress
from runtime.records import trained_on
from runtime.run_folder import SAVED, RunFolder
from runtime.signals import SIGNALS, Interruption, Signals
from settings import Settings
from settings.variants import Variant, with_choices
from swarm.levers import KEEP, KEPT, RESCALE, ROLLBACK
from swarm.steering import Steering
from training.budget import Budget
from training.choosing import Course
from training.curve import Curve
from training.metrics import Finished, Metrics
from training.pace import FIRST_STEP, TRAINED, Start, budget_of, step_ms
from training.resuming import with_copies
from training.schedule import Moment, Schedule
from training.snapshots import Snapshots
from training.trainer import Trainer

if TYPE_CHECKING:
    from training.probe import Probe

# Steps queued ahead, so that the GPU never waits for the host; 0 on a CPU. The budget includes
# them.
AHEAD_ON_GPU = 1
COLLECT_EVERY = 50  # steps between collections of garbage
REHEARSALS = 3  # of a cycle of the swarm
SKIP_NOISE = "skip_noise"  # as a decision in the log: windows so far that were noise


class Launched(NamedTuple):
    """What the host knows of a step that it launched.

    Attributes:
        now: the schedule at the step.
        elapsed: seconds of training when it was launched.
        tokens: that training has seen after the step.
        variant: what it computes.
    """

    now: Moment
    elapsed: float
    tokens: int
    variant: Variant


class Loop:
    """The training loop of one run.

    Args:
        trainer: takes the steps.
        settings: of the run.
        folder: of rank 0, which writes it; None on other ranks.
        progress: the progress line.
        validate: given steps, seconds and the number of tokens (0: all), returns the live weights'
            bpb; called off the clock.
        steering: the swarm; None: settings and schedule alone.
        start: where the steps begin, in a resumed run.
        budget: what the steps may take; None: the settings' clock and iterations.
        sample: given steps, writes a text; called off the clock every ``sample_every`` steps.
    """

    def __init__(
        self,
        trainer: Trainer,
        settings: Settings,
        folder: RunFolder | None,
        progress: Progress,
        validate: Callable[..., float],
        steering: Steering | None = None,
        start: Start = FIRST_STEP,
        budget: Budget | None = None,
        sample: Callable[[int], None] | None = None,
    ) -> None:
        self.sample = sample
        self.trainer, self.settings, self.folder = trainer, settings, folder
        self.progress, self.validate, self.steering = progress, validate, steering
        self.snapshots = {KEPT: trainer.snapshots}
        if steering:
            trainer.levers.decide(**steering.decided)
            for slot in {*steering.slots} - {KEPT}:
                self.snapshots[slot] = Snapshots(trainer.state, trainer.outgoing)
            for slot, copy in self.snapshots.items():
                copy.allocate_buffers()
                if slot in start.copies:
                    copy.load(start.copies[slot])
                elif steering.kept is not None:  # a checkpoint of old, without its copies
                    copy.take()
        self.step, self.trained = start.step, start.trained
        self._kept = (start.step, start.trained) if start.step else None
        limits = settings.wallclock, settings.iterations, start.elapsed
        self.budget = budget or Budget(*limits)
        self.schedule = Schedule.of(settings)
        update = trainer.update
        sizes = update.measures.sizes
        self.metrics = Metrics(update.groups, sizes, trainer.outgoing, update.fields)
        self.ahead = AHEAD_ON_GPU if trainer.world.device.type == "cuda" else 0
        self.saved_at = start.elapsed
        self.bpb: float | None = None
        self.pace = self.budget.pace(start, settings)
        self.course, self.curve = Course(start.course), Curve(settings)
        self.others_gib = max(start.others_gib, memory_of_others(trainer.world.device))
        self.variant: Variant | None = None
        self.probe = None  # a contest's file may leave it out
        if trainer.probes and not self.trained:
            from training.probe import Probe

            self.probe = Probe(trainer, start.probe)
            self.probe.seconds = self.budget.takes("probe", self.probe.seconds)
        self._launched: dict[int, Launched] = {}
        self._noise = trainer.loader.noise

    def run(self) -> None:
        """Step until the next step would not fit, and write a checkpoint; do neither if trained.

        Raises:
            Interruption: after a checkpoint, if a signal came.
        """
        if self.trained:
            return
        with SIGNALS, SIGNALS.deferred():
            self.steps()
            self.progress.ended()
            self.trained = True
            self._save(self.budget.elapsed())

    def steps(self, most: float = math.inf) -> None:
        """Step until the next step would not fit or ``most`` are taken; raises as ``run``."""
        last = self.step + most
        self.budget.start()
        with SIGNALS, SIGNALS.deferred() as signals, no_collection():
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
            signals.react()
            raise Interruption(signals.received or SIGTERM, self.step)
        now = self._now(elapsed, pending)
        ahead = self.pace.ahead() + self.pace.of(self._next_variant(now))
        if not self.budget.fits(self.step, elapsed, ahead):
            return False
        if self.probe and self.probe.due(now.progress):
            if self.budget.fits(self.step, elapsed, ahead + self.probe.seconds):
                self._measure(self.probe)
            return True  # the time is another one now
        self._step(now, elapsed)
        self._between_steps(now, elapsed)
        return True

    def _now(self, elapsed: float, pending: int) -> Moment:
        """Return the schedule at the next step, which begins when the pending ones end."""
        self.pace.finished(pending, elapsed)
        begins = elapsed + self.pace.ahead()
        reserved = self.budget.reserved
        return self.schedule.at(
            self.step, begins, lambda each: self.pace.of(self._chosen(each)), reserved
        )

    def _next_variant(self, now: Moment) -> Variant:
        """Return the variant of the step to come."""
        return self._chosen(self.schedule.variant(now.progress))

    def _chosen(self, variant: Variant) -> Variant:
        """Return a stage's variant with the swarm's choices."""
        return with_choices(variant, self.steering.choices if self.steering else {})

    def _step(self, now: Moment, elapsed: float) -> None:
        if self.steering and self.steering.due(self.step, now.progress):
            self._steer(self.steering, now)
        variant = self._next_variant(now)
        self._log_change(variant)
        self.metrics.push(self.step, self.trainer.step(self.step, now, variant))
        self.pace.launched(variant)
        self._launched[self.step] = Launched(now, elapsed, self.trainer.loader.position, variant)
        self.step += 1

    def _log_change(self, variant: Variant) -> None:
        """Log the variant of the first step, and of each step whose variant is another."""
        if self.folder and variant != self.variant:
            self.folder.log("variant", step=self.step, **asdict(variant))
        self.variant = variant

    def _steer(self, steering: Steering, now: Moment) -> None:
        """Run a cycle of the swarm before the next step, and obey; only a restore waits."""
        steering.note(momentum=now.momentum)
        if "step_ms" in steering.reads:
            steering.note(step_ms=step_ms(self.pace, self._next_variant(now), self.settings))
        for _ in range(REHEARSALS if self.ahead else 0):  # the host would wait for the GPU anyway
            steering.rehearse(self.step, now.progress, now.warmdown)
        cycle = steering.cycle(self.step, now.progress, now.warmdown)
        self.trainer.levers.decide(**steering.decided)
        if cycle.rollback or cycle.keep:
            self.budget.spend("keep")
        if cycle.rollback:
            self._land()
            slot = cycle.changed[ROLLBACK]
            self.snapshots[slot].restore()
            self.course.rollbacks += slot == KEPT  # a lost trial is no trouble
        elif cycle.keep:
            self.snapshots[cycle.changed[KEEP]].take()
        if RESCALE in cycle.changed:
            self.trainer.shrink_weights()
            self.snapshots[KEPT].take()  # the copy has the large ones
        for lever, value in cycle.changed.items():
            if self.folder and lever != KEEP:
                self.folder.log("decision", step=self.step, lever=lever, value=value)
        self._log_noise()

    def _log_noise(self) -> None:
        """Log how many windows of rank 0 were noise, if there were more since the last time."""
        noise = self.trainer.loader.noise
        if self.folder and noise > self._noise:
            self.folder.log("decision", step=self.step, lever=SKIP_NOISE, value=noise)
        self._noise = noise

    def _measure(self, probe: "Probe") -> None:
        """Score the averaged weights, and tell the swarm and the log."""
        found = probe.measure(self.step)
        self.budget.spend("probe")
        if self.steering:
            self.steering.note(**found)
        if self.folder:
            self.folder.log("probe", step=self.step, **found)

    def _between_steps(self, now: Moment, elapsed: float) -> None:
        every = self.settings.val_loss_every
        tokens = self.curve.tokens_due(now.progress, self.trainer.loader.position)
        if tokens or (every and self.step % every == 0):
            self._land()
            with self.budget.paused():
                self.bpb = self.validate(self.step, elapsed, tokens)
        if self.sample and self.step % self.settings.sample_every == 0:
            self._land()
            with self.budget.paused():
                self.sample(self.step)
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
        """Write a checkpoint on rank 0, unless it is there; ranks wait until it is written.

        A full disk loses the checkpoint, not the run.
        """
        self.saved_at = elapsed = self.budget.landed(elapsed)
        if self._kept == (self.step, self.trained):
            return
        self._kept = (self.step, self.trained)
        self.pace.finished(len(self.metrics), elapsed)
        self.others_gib = max(self.others_gib, memory_of_others(self.trainer.world.device))
        copies = {slot: copy.tensors() for slot, copy in self.snapshots.items()}
        tensors = with_copies(self.trainer.state.tensors(), copies)
        noise = sum(self.trainer.world.gathered(self.trainer.loader.noise))
        with SIGNALS.saving():
            if self.folder:
                self._write(self.folder, tensors, {"elapsed": elapsed, "noise": noise})
            self.trainer.world.barrier()

    def _write(
        self, folder: RunFolder, tensors: Mapping[str, Tensor], facts: Mapping[str, float]
    ) -> None:
        state = self.trainer.state.numbers() | {"step": self.step, **facts}
        state |= {"pace": self.pace.state(), "course": self.course.state()}
        state["others_gib"] = self.others_gib
        if self.probe:
            state["probe"] = self.probe.state()
        state["data"] = trained_on(folder.path)
        if self.steering:
            state["swarm"] = self.steering.state()
        if self.trained:
            state[TRAINED] = budget_of(self.settings)
        try:
            checkpoint.save(folder.checkpoints, self.step, tensors, state)
            folder.log(SAVED, step=self.step, elapsed=facts["elapsed"])
        except OSError as error:
            folder.log("checkpoint_failed", step=self.step, error=str(error))
            self.progress.line(f"no checkpoint at step {self.step}: {error}")

    def _report(self, finished: list[Finished]) -> None:
        for done in finished:
            now, started, tokens, variant = self._launched.pop(done.step)
            self.budget.spend(variant)
            self.course.add(done.loss, done.skipped)
            if self.steering:
                numbers = done.numbers(self.steering.reads)
                self.steering.add(done.loss, done.gradient_norm, numbers)
            elapsed = self.budget.elapsed()
            rate = tokens / max(elapsed, 1e-9)
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
