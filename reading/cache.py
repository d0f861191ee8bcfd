"""Tables of texts that programs keep for each other in the user's cache folder.

They never lie in a folder of data or of a run: who makes such a folder must not fill them. A table
that cannot be read or written costs time and nothing else.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from pydantic import RootModel

from errors import InputError
from files import write_text
from reading.structured import read_json


class Table(RootModel[dict[str, str]]):
    """Texts by key."""


def load(name: str) -> dict[str, str]:
    """Return a table; an empty one if there is none."""
    try:
        return dict(read_json(_place(name), Table, "").root)
    except (InputError, RuntimeError):
        return {}


def save(name: str, table: dict[str, str], most: int) -> None:
    """Keep the last ``most`` entries of a table."""
    with suppress(OSError, RuntimeError):
        place = _place(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, json.dumps(dict(list(table.items())[-most:])) + "\n")


def _place(name: str) -> Path:
    """Return the table's file. Raises RuntimeError for a user without a home."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "murmuration" / f"{name}.json"
