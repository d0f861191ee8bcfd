"""One rank's part of a run: what it computes with, and where it reports."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.device import Backends, choose, device_type
from runtime.progress import Progress
from runtime.ranks import World
from runtime.run_folder import RunFolder
from runtime.startup import Startup
from settings import Settings
from settings.variants import trains_in_fp8
from swarm.steering import Steering
from training.loop import Interruption
from training.resuming import open_folder


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

    def log_decisions(self, steering: Steering | None) -> None:
        """Start the decision log, on rank 0; in a resumed run after the swarm's state is loaded.

        Raises:
            InputError: the resumed run's log is damaged.
        """
        if steering and self.folder:
            steering.log_to(self.folder.decisions)

    def close_decisions(self, steering: Steering | None) -> None:
        """Finish the decision log; say which error kept it from being written, if any did."""
        error = steering.close() if steering else None
        if error:
            self.progress.phase(f"the decision log ends early: {error}")

    def report(self, stop: Interruption) -> None:
        """Print how to resume the run, on rank 0."""
        if self.folder:
            script = Path(sys.argv[0]).name
            self.progress.line(f"{stop}; go on with: {script} --resume {self.folder.path}")


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
    folder = None
    limit = settings.wallclock or None
    try:
        backends = choose(settings, world.device, trains_in_fp8(settings))
        folder = open_folder(settings, data) if world.is_main else None
        startup.done("torch and device")
        heard = folder.text.say if folder else None
        steps = None if limit else settings.iterations
        with Progress(limit, steps, world.is_main, heard) as progress:
            track(settings, folder, progress)
            yield Rank(settings, world, backends, folder, progress, startup)
    finally:
        if folder:
            folder.close()
        world.stop()
