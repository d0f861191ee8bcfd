"""A finished run as a submission takes it: every file of its folder parsed."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from artifact.submission.bundle import ELSEWHERE, NOT_KEPT
from errors import InputError, printable
from reading.regular import open_regular, read_lines
from runtime import ROUNDTRIP
from runtime.records import (
    LOG,
    REMEDY,
    SETTINGS,
    SUMMARY,
    Environment,
    Row,
    Summary,
    read_environment,
    read_log,
    read_settings,
    read_summary,
)
from runtime.run_folder import ARTIFACT, TEXT
from settings import Settings
from settings.load import describe

DIVERGED = "training diverged; lower the learning rates, and train again"


@dataclass(frozen=True)
class Entry:
    """A finished run."""

    path: Path
    settings: Settings
    summary: Summary
    environment: Environment

    @classmethod
    def read(cls, path: Path) -> "Entry":
        """Read a run's folder. Raises InputError for what is none, or did not finish."""
        if path.is_dir() and not os.path.lexists(path / SUMMARY):
            raise InputError(f"{path} is no run that finished: {unfinished(path)}")
        try:
            summary, environment = read_summary(path), read_environment(path)
            settings = Settings.model_validate(read_settings(path))
        except ValidationError as error:
            raise InputError(f"{path / SETTINGS}: {describe(error)}") from None
        except InputError as error:
            raise InputError(f"{path} is no run that finished: {error}") from None
        if not any(name.startswith(ROUNDTRIP) for name in summary.scores):
            raise InputError(f"{path}: its summary has no scores of an artifact; run it again")
        artifact, log = path / ARTIFACT, path / LOG
        for file in (artifact, log):
            open_regular(file, REMEDY, links=False).close()
        if artifact.stat().st_size != summary.artifact_bytes:
            raise InputError(f"{path}: its summary is of another artifact; run it again")
        for name in ELSEWHERE:
            if getattr(settings, name):
                raise InputError(f"{path}: a contest knows no {name}; train a run without it")
        return cls(path, settings, summary, environment)

    @property
    def seed(self) -> int:
        """The seed, by which runs differ."""
        return self.settings.seed

    @property
    def hardware(self) -> str:
        """Number and name of its devices."""
        return f"{self.environment.world_size}x {self.environment.devices[0]}"

    def score(self, method: str) -> Row:
        """Return bpb, nats and more of one of its scores."""
        return self.summary.scores[method]

    def events(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the events of a kind in its log."""
        return (event for event in read_log(self.path / LOG) if event["kind"] == kind)

    def log(self) -> bytes:
        """Return its log as text: what it printed, or else an event a line.

        Raises:
            InputError: the log is a link or no regular file.
        """
        text = self.path / TEXT
        if text.exists() or text.is_symlink():
            lines = read_lines(text, REMEDY, links=False)
            return "".join(f"{readable(line)}\n" for line in lines).encode()
        return "".join(f"{as_text(event)}\n" for event in read_log(self.path / LOG)).encode()

    def difference(self, other: "Entry") -> str | None:
        """Return a setting in which two runs differ, besides the seed and names of places."""
        for name in Settings.model_fields:
            same = getattr(self.settings, name) == getattr(other.settings, name)
            if not same and name not in NOT_KEPT:
                return name
        return None


def readable(line: bytes) -> str:
    """Return a line of a log as text without control characters."""
    return printable(line.decode("utf-8", "replace").rstrip("\r\n"))


def as_text(event: Mapping[str, object]) -> str:
    """Return an event as a line: its kind, then its fields."""
    fields = (f"{name}:{value}" for name, value in event.items() if name != "kind")
    return printable(" ".join((str(event["kind"]), *fields)))


def other_runs(entries: list[Entry]) -> list[Entry]:
    """Return the finished runs beside those given that have the same settings, by seed.

    Without them nobody knows of how many seeds those given were chosen.
    """
    given = {entry.path.resolve() for entry in entries}
    folders = {path.parent for path in given}
    found = []
    for place in sorted(summary.parent for f in folders for summary in f.glob(f"*/{SUMMARY}")):
        if place.resolve() not in given:
            try:
                entry = Entry.read(place)
            except InputError:
                continue
            if entry.difference(entries[0]) is None:
                found.append(entry)
    return sorted(found, key=lambda entry: entry.seed)


def unfinished(run: Path) -> str:
    """Return why a run's folder has no summary, and what to do."""
    if not (run / LOG).exists():
        return "it has no log; give a run's folder"
    steps = [event for event in read_log(run / LOG) if event["kind"] == "step"]
    if steps and steps[-1].get("loss") is None:
        return DIVERGED
    return f"`train.py --resume {run}` finishes it"
