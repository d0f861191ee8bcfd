"""The folder of one run: its settings, environment, log, decisions, results."""

import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np
import tomli_w
import torch

from errors import InputError
from files import PROJECT, atomic_write, write_text
from runtime import checkpoint, watching
from runtime.listeners import Listener, TextLog
from runtime.lock import NO_LOCK, lock, unlock
from runtime.records import (
    DECISIONS,
    ENVIRONMENT,
    LOG,
    NATS,
    REMEDY,
    SETTINGS,
    SUMMARY,
    nats_file,
    read_log,
    read_settings,
)

CHECKPOINTS, ARTIFACT, PLOT, TEXT = "checkpoints", "artifact.bin", "loss.png", "train.log"
FILES = (SETTINGS, ENVIRONMENT, LOG, TEXT, DECISIONS, SUMMARY, CHECKPOINTS, ARTIFACT, PLOT, NATS)
HALF = re.compile(rf"\.({'|'.join(map(re.escape, FILES))}|[^/]+\.f32)\.\d+\.part")
PACKED = ("*.py", "presets/*.toml", "knowledge/*.scores")  # of a submission, as git matches them
SAVED = "checkpoint"  # the event of a written checkpoint


class RunFolder:
    """The files of one run. Only rank 0 makes one; the caller checks the rank.

    ``settings.toml`` can be passed to the program again (``--config``). ``environment.json`` has
    the commit, versions and devices. ``log.jsonl`` and the swarm's ``decisions.jsonl`` have one
    JSON object a line; ``train.log`` says the same as text. ``summary.json`` is written at the end.
    The folder is locked until ``close``. What cannot be written costs the file and one warning.

    Attributes:
        warn: prints a line.
        listeners: get each row of the log; ``text``, the first, writes ``train.log``.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use ``create`` or ``reopen``."""
        self.path = path
        self.warn: Callable[[str], object] = print
        self._descriptor = descriptor
        self.checkpoints = path / CHECKPOINTS
        self.artifact = path / ARTIFACT
        self.log_file = path / LOG
        self.decisions = path / DECISIONS
        self.plot = path / PLOT
        self.text = TextLog(path / TEXT)
        self.listeners: list[Listener] = [self.text]
        self.lost_lines = 0
        self._torn = False
        self._log = self.log_file.open("ab", buffering=0)
        watching.allow(path)

    @classmethod
    def create(
        cls,
        path: Path | None,
        name: str,
        settings: Mapping[str, object],
        data: str = "",
        run_id: str = "",
    ) -> "RunFolder":
        """Make the folder of a new run, or empty that of a run that came to no checkpoint.

        Args:
            path: the folder; None means ``runs/<date-time>-<name>`` under the working directory.
            name: part of the folder's name, for example ``tiny-seed1337``.
            settings: flat; strings, paths, numbers, booleans and lists of them. None is left out.
            data: fingerprint of `data.inputs.Inputs`.
            run_id: in place of date, time and name.

        Raises:
            InputError: the folder holds something else or is in use, or cannot be made.
        """
        try:
            folder = _new_folder(name, run_id) if path is None else Path(path)
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder) as descriptor:
                _empty(folder, descriptor)
                write_text(folder / SETTINGS, to_toml(settings))
                write_text(folder / ENVIRONMENT, _pretty(environment() | {"data_sha256": data}))
                return cls(folder, descriptor)
        except OSError as error:
            raise InputError(
                f"cannot make run folder {path or 'in runs'}: {error.strerror}; "
                "choose another with --run-dir"
            ) from None

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Open the folder of an earlier run to resume it.

        A torn last log line is dropped, and what a killed process left half is removed.

        Raises:
            InputError: ``path`` is not a run folder, is in use, cannot be written to, or one of
                its files is a link, through which the run would write elsewhere.
        """
        path = Path(path)
        if not (path / SETTINGS).is_file():
            raise InputError(f"{path} is not a run folder: it has no {SETTINGS}")
        for name in FILES:
            if (path / name).is_symlink():
                raise InputError(f"{path / name}: is a link; {REMEDY}")
        try:
            with _locked(path) as descriptor:
                _remove_halves(path)
                run = cls(path, descriptor)
                run.truncate_log()
                return run
        except OSError as error:
            raise InputError(f"cannot write to run folder {path}: {error.strerror}") from None

    def log(self, kind: str, **fields: object) -> None:
        """Append one event to the file. A full disk costs the line, not the run: see `lost_lines`.

        JSON has no NaN or infinity: such a number becomes null, and ``<field>_nonfinite`` is
        "nan", "inf" or "-inf" (the first one, in a field with several numbers).
        """
        line = json.dumps(_finite({"kind": kind} | fields), default=str).encode() + b"\n"
        # A line after a torn one begins a new line, so that only the torn one is lost.
        line = b"\n" * self._torn + line
        reason = "no room"
        try:
            written = self._log.write(line)
        except OSError as error:
            written, reason = 0, error.strerror
        if written < len(line):
            self._torn = self._torn or written > 0
            if not self.lost_lines:
                self.warn(f"lines of {self.log_file} are lost: {reason}")
            self.lost_lines += 1
        else:
            self._torn = False
        for listener in self.listeners:
            listener.event(kind, fields)

    def change_settings(self, settings: Mapping[str, object]) -> None:
        """Write the settings of a run that goes on, and log those that changed.

        Args:
            settings: as for `create`.
        """
        text, kept = to_toml(settings), read_settings(self.path)
        now = tomllib.loads(text)
        changed = {name: value for name, value in now.items() if kept.get(name) != value}
        if changed:
            write_text(self.path / SETTINGS, text)
            self.log("settings", changed=changed)

    def truncate_log(self, step: float = math.inf) -> None:
        """Drop what follows the checkpoint of ``step``, because a run that resumes logs it again.

        Changes of the settings stay. If the checkpoint's line was lost, the events of later steps
        are dropped.
        """
        events = [e for e in read_log(self.log_file) if e.get("step", 0) <= step]
        marks = [n for n, e in enumerate(events, 1) if (e["kind"], e.get("step")) == (SAVED, step)]
        last = marks[-1] if marks else len(events)
        changes = [event for event in events[last:] if event["kind"] == "settings"]
        with atomic_write(self.log_file) as file:
            for event in events[:last] + changes:
                file.write(json.dumps(event).encode() + b"\n")
        self._log.close()
        self._log = self.log_file.open("ab", buffering=0)
        if step < math.inf:
            self.text.say(f"resumed after step {step:g}")

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write ``summary.json``, whole or not at all; numbers as in ``log``."""
        try:
            write_text(self.path / SUMMARY, _pretty(summary))
        except OSError as error:
            self.warn(f"no {self.path / SUMMARY}: {error.strerror}")

    def going_on(self) -> str:
        """Return what the folder keeps and how to go on, for the last line of a run that stops."""
        newest = checkpoint.latest(self.checkpoints)
        if newest is None:
            return f"{self.path} has no checkpoint yet: start again, also with this --run-dir"
        kept = f"step {checkpoint.step_of(newest)}"
        kept += f" and {ARTIFACT}" if self.artifact.is_file() else ""
        return f"kept: {kept}; go on with: {self.resume}"

    @property
    def resume(self) -> str:
        """The command that goes on with this run."""
        return f"{Path(sys.argv[0]).name} --resume {shlex.quote(str(self.path))}"

    def keep_nats(self, row: str, nats: np.ndarray) -> None:
        """Keep the nats of each target (N,) of a score. A full disk costs them, not the run."""
        path = nats_file(self.path, row)
        try:
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path) as file:
                file.write(nats.astype("<f4").tobytes())
        except OSError as error:
            self.warn(f"no {path}: {error.strerror}")
            self.log("nats_lost", row=row, error=str(error))

    def close(self) -> None:
        """Close the log and its listeners, and give the lock back."""
        for listener in self.listeners:
            listener.close()
        self._log.close()
        unlock(self._descriptor)


def to_toml(settings: Mapping[str, object]) -> str:
    """Return a flat table as TOML text, without the values that are None, which TOML lacks.

    Raises:
        TypeError: a value is not a string, path, number, boolean or a list of them.
    """
    flat = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            raise TypeError(f"settings.toml cannot hold {name} {value!r}")
        if value is not None:
            flat[name] = str(value) if isinstance(value, Path) else value
    return tomli_w.dumps(flat)


def environment() -> dict[str, object]:
    """Return commit, versions, devices, number of ranks, command line and time."""
    commit = _git("rev-parse", "HEAD")
    changed = commit and _changed()
    cuda = torch.cuda.is_available()
    return {
        "git_commit": commit,
        "git_dirty": bool(changed) if commit else None,
        "git_changed": changed,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": f"{_cpu_name()}, {os.cpu_count()} cores",
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else ["cpu"],
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "command": shlex.join(sys.orig_argv),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _new_folder(name: str, run_id: str) -> Path:
    given = re.sub(r"[^\w.-]+", "-", run_id).strip("-.")[:100]
    stem = given or f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    # A sweep may start many runs in one second: each takes the first name that is free.
    for number in count(1):
        folder = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError("count never ends")


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Lock a folder; give the lock back only if the block raises."""
    descriptor = lock(folder)
    try:
        yield descriptor
    except BaseException:
        unlock(descriptor)
        raise


def _empty(folder: Path, descriptor: int) -> None:
    """Empty the folder of a run that came to no checkpoint. Raises InputError for any other."""
    found = {path.name: path for path in folder.iterdir() if not HALF.fullmatch(path.name)}
    came_to = found.keys() & {ARTIFACT, SUMMARY} or checkpoint.latest(folder / CHECKPOINTS)
    begun = SETTINGS in found and found.keys() <= set(FILES)
    if found and (came_to or not begun or descriptor == NO_LOCK):
        raise InputError(f"run folder {folder} is not empty; give a new --run-dir, or --resume it")
    _remove_halves(folder)
    for name, path in found.items():
        if name == CHECKPOINTS and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def _remove_halves(folder: Path) -> None:
    """Remove what killed writers left. The caller has the folder's lock."""
    for path in [*folder.iterdir(), *(folder / NATS).glob(".*.part")]:
        if HALF.fullmatch(path.name):
            path.unlink()
    checkpoint.tidy(folder / CHECKPOINTS)


def _finite(fields: Mapping[str, object]) -> dict[str, object]:
    clean: dict[str, object] = {}
    for key, value in fields.items():
        found: list[float] = []
        clean[key] = _without_nonfinite(value, found)
        if found:
            clean[f"{key}_nonfinite"] = str(found[0])
    return clean


def _without_nonfinite(value: object, found: list[float]) -> object:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        found.append(value)
        return None
    if isinstance(value, Mapping):
        return {key: _without_nonfinite(item, found) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(item, found) for item in value]
    return value


def _pretty(fields: Mapping[str, object]) -> str:
    return json.dumps(_finite(fields), indent=2, default=str) + "\n"


def _git(*arguments: str) -> str | None:
    """Return git's output on the project; None without git, or if the project is no checkout."""
    try:
        prefix = _output("git", "-C", str(PROJECT), "rev-parse", "--show-prefix")
        return None if prefix else _output("git", "-C", str(PROJECT), *arguments)
    except (OSError, subprocess.SubprocessError):
        return None


def _changed() -> str | None:
    """Return the first file by which the code may be another than its commit's.

    That is a tracked file, or a new one of those that a submission packs. Results are neither:
    ``python -m bench`` writes them between the runs of a series.
    """
    found = _git("diff", "--name-only", "HEAD", "--", ".", ":(exclude)bench/results")
    found = found or _git("ls-files", "--others", "--exclude-standard", *PACKED)
    return found.splitlines()[0][:200] if found else None


def _output(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return finished.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
