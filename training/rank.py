"""One rank's part of a run: what it computes with, and where it reports."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from runtime.device import Backends, choose, device_type
from runtime.graphs import captures
from runtime.progress import Progress
from runtime.ranks import World
from runtime.run_folder import RunFolder
from runtime.signals import SIGNALS, Interruption
from runtime.startup import Startup
from settings import Settings
from settings.variants import trains_in_fp8
from swarm.steering import Steering
from training.resuming import open_folder

if TYPE_CHECKING:
    from training.trainer import Trainer


@dataclass(frozen=True)
class Rank:
    """One rank of a run.

    Attributes:
        settings: of the run.
        world: the ranks.
        backends: of the model and of attention.
        folder: rank 0's; None on other ranks.
        progress: the progress line.
        startup: the phases before the first step.
    """

    settings: Settings
    world: World
    backends: Backends
    folder: RunFolder | None
    progress: Progress
    startup: Startup

    def log(self, kind: str, **fields: object) -> None:
        """Add an event to the run's log, on rank 0."""
        if self.folder:
            self.folder.log(kind, **fields)

    def started(self) -> None:
        """Log the seconds of each phase of startup, the last of which ends now; say the longest."""
        self.startup.done("loop")
        self.log("startup", **self.startup.seconds, total=self.startup.total)
        self.progress.line(self.startup.line)

    def log_decisions(self, steering: Steering | None) -> None:
        """Start the decision log, on rank 0; in a resumed run after the swarm's state is loaded.

        Raises:
            InputError: the resumed run's log is damaged.
        """
        if steering and self.folder:
            steering.log_to(self.folder.decisions)

    @contextmanager
    def closing(self, trainer: "Trainer", steering: Steering | None) -> Iterator[None]:
        """Close the trainer and the decision log at the end of this context.

        One of several ranks leaves its trainer open after an error, because its GPU may wait for a
        lost rank, and the others wait to hear of the error. It does not after an interruption with
        a step, on which all ranks have agreed.
        """
        whole = self.world.size == 1
        try:
            yield
            whole = True
        except Interruption as interruption:
            whole = whole or interruption.step is not None
            raise
        finally:
            if whole:
                trainer.close()
            self._close_decisions(steering)

    def _close_decisions(self, steering: Steering | None) -> None:
        """Finish the decision log; say which error kept it from being written, if any did."""
        error = steering.close() if steering else None
        if error:
            self.progress.line(f"the decision log ends early: {error}")


def track(settings: Settings, folder: RunFolder | None, progress: Progress) -> None:
    """Let the tracker that was asked for listen to the log."""
    if folder and settings.track != "none":
        from runtime.tracking import Tracker

        config = settings.model_dump(mode="json")
        folder.listeners.append(
            Tracker(settings.track, folder.log_file, config, folder.log, progress.line)
        )


@contextmanager
def joined(settings: Settings, startup: Startup, data: str) -> Iterator[Rank]:
    """Join the ranks and open the run's folder; leave and close them at the end.

    Args:
        settings: of the run.
        startup: its phases so far.
        data: fingerprint of what it reads.

    Raises:
        InputError: a device, backend or folder is not available.
    """
    world = World.start(device_type(settings.device))
    try:
        with ExitStack() as stack:
            backends = choose(settings, world.device, trains_in_fp8(settings))
            if captures(backends.backend, world.device):
                from kernels.common.compiling import begin_key  # a CPU can do without Triton

                begin_key()
            startup.done("device")
            folder = open_folder(settings, data) if world.is_main else None
            if folder:
                stack.enter_context(closing(folder))
            startup.done("run folder")
            limit, heard = settings.wallclock or None, folder.text.say if folder else None
            steps = None if limit else settings.iterations
            progress = stack.enter_context(Progress(limit, steps, world.is_main, heard))
            connect(world, folder, progress)
            track(settings, folder, progress)
            yield Rank(settings, world, backends, folder, progress, startup)
    except BaseException as error:
        world.fail(error)
        raise
    world.stop()


def connect(world: World, folder: RunFolder | None, progress: Progress) -> None:
    """Let what ends or troubles the run be said by rank 0, and no rank wait for a lost one."""
    if world.peers:
        SIGNALS.lost = world.peers.lost
    if folder is None:
        SIGNALS.last_words = world.peers.last_words if world.peers else str
        return
    folder.warn = progress.line
    SIGNALS.last_words = lambda: f"interrupted; {folder.going_on()}"
    if world.peers:
        world.peers.tell_how_to_resume(folder.resume)
        world.peers.tell = progress.line
        world.peers.farewell = partial(farewell, progress)


def farewell(progress: Progress, number: int) -> int:
    """Restore the terminal, and speak after a signal; return the exit code."""
    progress.stop()
    return SIGNALS.leave(number) if number else 0
