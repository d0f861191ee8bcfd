"""SHA-256 of large files, kept between programs as long as the file is the same.

The table lies in the user's cache folder, never in a data folder: who makes a data folder must not
choose the hashes that it is checked by.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pydantic import RootModel

from errors import InputError
from files import sha256, write_text
from reading.structured import read_json

MOST = 2_000  # files in the table; the oldest entries go first


class Table(RootModel[dict[str, str]]):
    """SHA-256 by `_identity` of a file."""


def sha256_of(paths: Sequence[Path]) -> list[str]:
    """Return each file's SHA-256 in hexadecimal.

    A file is read again only if its path, size, inode or one of its times changed. Several files
    are read in parallel. A table that cannot be read or written costs time and nothing else.

    Raises:
        OSError: a file cannot be read.
    """
    known = _load()
    identities = [_identity(path) for path in paths]
    missing = {i: path for i, path in zip(identities, paths, strict=True) if i not in known}
    if missing:
        with ThreadPoolExecutor() as pool:
            found = dict(zip(missing, pool.map(sha256, missing.values()), strict=True))
        known |= found
        _save(known)
    return [known[identity] for identity in identities]


def _identity(path: Path) -> str:
    # Nobody can set the time of the last change of status, so it tells that a file is the same.
    facts = path.stat()
    times = f"{facts.st_mtime_ns} {facts.st_ctime_ns}"
    return f"{facts.st_dev} {facts.st_ino} {facts.st_size} {times} {str(path.resolve())!a}"


def _place() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "murmuration" / "sha256.json"


def _load() -> dict[str, str]:
    try:
        return dict(read_json(_place(), Table, "").root)
    except (InputError, RuntimeError, OSError):
        return {}


def _save(known: dict[str, str]) -> None:
    with suppress(OSError, RuntimeError):
        place = _place()
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, json.dumps(dict(list(known.items())[-MOST:])) + "\n")
