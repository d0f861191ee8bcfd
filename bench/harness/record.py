"""The record in every committed result: device, versions, commit, date."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from errors import InputError
from files import write_text
from reading.structured import Form, read_json
from runtime.run_folder import environment


def need_gpu() -> None:
    """Raise InputError on a machine without a GPU."""
    if not torch.cuda.is_available():
        raise InputError("this command measures a GPU, and there is none")


def check_out(*paths: Path | None) -> None:
    """Raise InputError, before anything is measured, if a result could not be written."""
    for path in filter(None, paths):
        folder = path.parent
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"{path}: cannot be written; name a file in a folder that you may use")


class Rows(Form):
    """A result that later commands add rows to."""

    rows: list[dict[str, Any]]


def earlier(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a result that a command adds to; none where there is no file yet.

    Args:
        path: of the result.
        fields: that each row must have.

    Raises:
        InputError: the file is no such result.
    """
    if not path.exists():
        return []
    remedy = "move it away, or restore it from its commit"
    rows = read_json(path, Rows, remedy).rows
    for name in fields:
        if any(name not in row for row in rows):
            raise InputError(f"{path}: a row has no {name}; {remedy}")
    return rows


Commit = Annotated[str | None, Parameter(help="of the code, if it is no git checkout")]


def provenance(commit: str | None = None) -> dict[str, str]:
    """Return device, versions, commit and date of a measurement.

    Args:
        commit: of the code, for a copy of it that is no git checkout.
    """
    found = environment()
    dirty = " (with changes)" if found["git_dirty"] else ""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else str(found["cpu"])
    return {
        "device": device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit or f"{found['git_commit']}{dirty}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def as_lines(about: Mapping[str, object]) -> str:
    """Return a record as text, a line for each field."""
    return "\n".join(f"{name}: {value}" for name, value in about.items())


def write_json(out: Path, result: Any) -> None:
    """Write a result as JSON."""
    write_text(out, json.dumps(result, indent=1) + "\n")


def write_table(out: Path, command: str, about: Mapping[str, object], table: str) -> None:
    """Write a result as text: the command that gives it again, its record and its table."""
    write_text(out, "\n".join([command, as_lines(about), "", table, ""]))
