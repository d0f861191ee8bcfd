"""The forms of a run folder's files, as programs read them that judge the run of another."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from reading.regular import read_lines
from reading.structured import Form, checked, parse_json, read_json, read_toml

SETTINGS, ENVIRONMENT, LOG, DECISIONS, SUMMARY = (
    "settings.toml",
    "environment.json",
    "log.jsonl",
    "decisions.jsonl",
    "summary.json",
)
NATS = "nats"  # a folder
REMEDY = "copy the whole folder again, or run it again"
Count = Annotated[int, Field(ge=0)]
Word = Annotated[str, StringConstraints(max_length=200)]


class Row(Form):
    """A score of a run."""

    bpb: float
    nats: float
    tokens: Count
    bytes: Count
    seconds: float


class Provenance(Form):
    """Where the numbers of a summary come from: see `evaluation.origins.Origins`."""

    code_sha256: Word | None = None
    code_modules: dict[Word, Word] | None = None
    data: dict[Word, Word] | None = None
    observed: dict[Word, list[Word]] | None = None


class Summary(Provenance):
    """A run's ``summary.json``, as far as it is read."""

    steps: Count
    train_seconds: float
    code_bytes: Count
    artifact_bytes: Count
    scores: dict[Word, Row]
    code_files: dict[Word, Count] = Field(default_factory=dict)
    diverged: bool = False


class Partial(Provenance):
    """A summary of which parts may be missing."""

    train_seconds: float | None = None
    code_bytes: Count | None = None
    artifact_bytes: Count | None = None
    scores: dict[Word, Row] = Field(default_factory=dict)


class Environment(Form):
    """A run's ``environment.json``, as far as it is read."""

    world_size: Annotated[int, Field(ge=1)]
    devices: Annotated[list[Word], Field(min_length=1)]
    torch: Word
    git_commit: Word | None = None
    git_dirty: bool | None = None
    git_changed: str | None = None


class Trained(Form):
    """What an environment says of the data; runs of before say nothing."""

    data_sha256: Word = ""


class Event(Form):
    """A line of ``log.jsonl``."""

    kind: Word
    step: float = 0


def read_summary(folder: Path) -> Summary:
    """Return a finished run's summary. Raises InputError for anything else."""
    return read_json(folder / SUMMARY, Summary, REMEDY, links=False)


def read_environment(folder: Path) -> Environment:
    """Return what a run ran on. Raises InputError for anything else."""
    return read_json(folder / ENVIRONMENT, Environment, REMEDY, links=False)


def trained_on(folder: Path) -> str:
    """Return the fingerprint of the data of a run; empty where its folder has none."""
    path = folder / ENVIRONMENT
    if not path.exists() and not path.is_symlink():
        return ""
    return read_json(path, Trained, REMEDY, links=False).data_sha256


def tokenizer_of(folder: Path) -> str:
    """Return the SHA-256 of the tokenizer of a run; empty where its folder has no summary.

    A summary has the hashes of a tokenizer and of shards, which are ``*.bin``.
    """
    path = folder / SUMMARY
    if not path.exists() and not path.is_symlink():
        return ""
    data = read_json(path, Provenance, REMEDY, links=False).data or {}
    return next((data[name] for name in data if not name.endswith(".bin")), "")


def read_settings(folder: Path) -> dict[str, Any]:
    """Return a run's settings, unchecked. Raises InputError for what is no TOML."""
    return read_toml(folder / SETTINGS, REMEDY, links=False)


def nats_file(folder: Path, row: str) -> Path:
    """Return where a run keeps the nats of each target of a row of its scores, as fp32."""
    return folder / NATS / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', row)}.f32"


def read_log(path: Path) -> Iterator[dict]:
    """Yield each event of a ``log.jsonl``; a line that is no event, as a torn one, is skipped.

    Raises:
        InputError: the file is missing, a link, or cannot be read.
    """
    for line in read_lines(path, REMEDY, links=False):
        try:
            event = parse_json(line)
            checked(event, Event)
        except ValueError:
            continue
        yield event
