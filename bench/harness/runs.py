"""Runs of train.py, one or two on each GPU at a time. A process makes several one after another.

Later runs of a process reuse what its first run imported, started and compiled. A run that diverged
is finished, too: it has no scores that compare. One that other code has made counts, and is named.
"""

import gc
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch

import train
from artifact.submission.code_size import hashes_of
from errors import DivergedError, InputError
from files import PROJECT, write_text
from reading.structured import Form, read_json
from runtime.device import OTHERS_GIB
from runtime.lock import lock, unlock
from settings.load import load_settings

if TYPE_CHECKING:
    from training.finishing import Trained
    from training.rank import Rank
    from training.trainer import Trainer

DIVERGED = "diverged.json"  # the summary of a run that left nothing to export
MAKE_AGAIN = "remove the run's folder; the same command makes it again"
Summary = Mapping[str, Any]
REMARKS = {
    "diverged": "diverged",
    "other_code": "by other code",
    "beside": "beside other processes on the GPU",
}
"""Fields of a summary that a table mentions, and how."""


class Score(Form):
    """A row of a run's scores, as far as each table reads it; None: it was not finite."""

    bpb: float | None


class Finished(Form):
    """A summary, as far as each table reads it."""

    scores: dict[str, Score]


def summaries_of(
    runs: Sequence[tuple[Any, ...]],
    make: Callable[..., Summary] | None = None,
    aloud: bool = False,
    sharing: int = 1,
) -> Iterator[Summary]:
    """Make runs on all GPUs at once, and give back their summaries, in order.

    Args:
        runs: folder and arguments of train.py. One whose folder has a summary is not made again;
            one that was cut off begins anew.
        make: makes one of them in its process; None: ``summary``.
        aloud: whether they print what they say.
        sharing: runs that are on a GPU at once, as ``shared_by`` returns it.

    Raises:
        InputError: a run made none, or its process was killed.
    """
    processes = get_context("spawn")
    # No more places than runs: of four on two GPUs, two runs could get those of one.
    waiting = sum(not is_finished(Path(run[0])) for run in runs)
    places = (sharing * gpus())[: max(1, waiting)]
    devices = processes.SimpleQueue()
    for device in places:
        devices.put(device)
    pool = ProcessPoolExecutor(len(places), processes, take_device, (devices, aloud))
    try:
        futures = [pool.submit(make or summary, *run) for run in runs]
        for future in futures:
            yield future.result()
    except BaseException as error:  # an interruption, too: unfinished runs are of no use
        for process in active_children():
            process.kill()
        if isinstance(error, BrokenProcessPool):
            killed = "a run's process was killed, perhaps for its memory"
            raise InputError(f"{killed}; the same command goes on") from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def is_finished(folder: Path) -> bool:
    """Return whether a folder has a run's summary, or that of one that diverged."""
    return (folder / "summary.json").exists() or (folder / DIVERGED).exists()


def gpus() -> list[str]:
    """Return the names of the GPUs that this process sees; one without any."""
    count = max(1, torch.cuda.device_count())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(each) for each in range(count)] if visible is None else visible.split(",")[:count]


def shared_by(commands: Iterable[Sequence[str]]) -> int:
    """Return how many runs a GPU makes at once: two if a table counts the time of all of them.

    While one run starts or ends, which is a third of its time, the other one trains.

    Args:
        commands: options of train.py, of each run.
    """
    counted = all(load_settings(command).reference_clock for command in commands)
    return 2 if counted and torch.cuda.is_available() else 1


def take_device(devices: "SimpleQueue[str]", aloud: bool = False) -> None:
    """Let this process see one of the GPUs alone, and keep what runs say to itself.

    It ends with its parent: a run that outlived it would train beside what the same command makes.
    """
    Thread(target=end_with_parent, daemon=True).start()
    os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()
    if aloud:
        return
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def end_with_parent() -> None:
    """Wait for the end of the process that has started this one, then kill this one."""
    if parent := parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def clear(folder: Path) -> None:
    """Remove what a run that was cut off has left. Raises InputError if it still goes on."""
    if folder.exists():
        unlock(lock(folder))
        shutil.rmtree(folder)


def free_memory() -> None:
    """Let the next run of this process have all memory, and measure its own peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def summary(folder: Path, command: Sequence[str]) -> Summary:
    """Return the summary of a run, which is made here if it is absent.

    Its field ``other_code`` says whether the code has changed since it was made, and ``beside``
    whether its GPU had less time for it, by the clock that ended it.
    """
    whole, nothing = folder / "summary.json", folder / DIVERGED
    if not is_finished(folder):
        clear(folder)
        status = train.main([*command, "--run-dir", str(folder)])
        free_memory()
        if not whole.exists():
            if status != DivergedError.code:
                raise InputError(f"train.py {shlex.join(command)} ended with {status}")
            facts = {"diverged": True, "scores": {}, "code_modules": hashes_of(PROJECT)}
            write_text(nothing, json.dumps(facts) + "\n")
    file = whole if whole.exists() else nothing
    found = read_json(file, Finished, MAKE_AGAIN).model_dump(exclude_unset=True)
    beside = found.get("others_gib", 0.0) > OTHERS_GIB
    return {
        **found,
        "other_code": found.get("code_modules") != hashes_of(PROJECT),
        "beside": beside and not load_settings(command).reference_clock,
    }


def remarks(runs: Sequence[Summary]) -> dict[str, int]:
    """Return how many runs have each field of ``REMARKS``, where there are any."""
    found = {name: sum(bool(run.get(name)) for run in runs) for name in REMARKS}
    return {name: count for name, count in found.items() if count}


def sound(runs: Sequence[Summary]) -> list[Summary]:
    """Return the runs that did not diverge."""
    return [run for run in runs if not run.get("diverged")]


def unquantised_summary(folder: Path, command: Sequence[str]) -> Summary:
    """Return the summary of a run whose ``roundtrip`` scores are of the weights that it exports.

    Raises:
        InputError: as ``summary``, or the folder holds a run with an artifact.
    """
    with unquantised():
        found = summary(folder, command)
    if found.get("artifact"):
        raise InputError(f"{folder} holds a run with an artifact; choose other --runs")
    return found


@contextmanager
def unquantised() -> Iterator[None]:
    """Let the runs that are made in this context skip the artifact, which takes seconds.

    An empty file stands for it, and its scores are of the weights that it would hold.
    """
    export = train.export

    def chosen(rank: "Rank", trainer: "Trainer", trained: "Trained") -> tuple[Any, dict]:
        if rank.folder:
            rank.folder.artifact.touch()
        return trained.exported, {}

    train.export = chosen
    try:
        yield
    finally:
        train.export = export
