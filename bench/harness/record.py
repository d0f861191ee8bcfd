"""The record in every committed result: device, versions, commit, date."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from errors import InputError
from runtime.run_folder import environment


def need_gpu() -> None:
    """Raise InputError on a machine without a GPU."""
    if not torch.cuda.is_available():
        raise InputError("this command measures a GPU, and there is none")


def check_out(*paths: Path | None) -> None:
    """Raise InputError, before anything is measured, if a result could not be written."""
    for path in filter(None, paths):
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"{path}: cannot be written; name a file in a folder that you may use")


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
