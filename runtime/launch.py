"""What torchrun tells a process, and a word to a user who waits for other ranks."""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from errors import InputError

NUMBER = re.compile("[0-9]{1,6}")
NUMBERS = "WORLD_SIZE", "RANK", "LOCAL_RANK"
MEETING = "MASTER_ADDR", "MASTER_PORT"
REMEDY = "unset it, or start train.py by torchrun"
PATIENCE = 10.0  # seconds before waiting is said


def ranks_of(environment: Mapping[str, str]) -> int:
    """Return the number of ranks. Raises InputError for numbers that torchrun does not set."""
    for name in NUMBERS:
        given = environment.get(name, "1")
        if not NUMBER.fullmatch(given) or (name == "WORLD_SIZE" and not int(given)):
            raise InputError(f"{name}={given}: {REMEDY}")
    return int(environment.get("WORLD_SIZE", "1"))


def check_meeting(environment: Mapping[str, str]) -> None:
    """Raise InputError where several ranks are not told how to meet."""
    for name in (*NUMBERS, *MEETING):
        if name not in environment:
            raise InputError(f"WORLD_SIZE={environment.get(NUMBERS[0])} without {name}: {REMEDY}")


def is_first_of_host() -> bool:
    """Return whether this process is the first rank of its host, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def waiting(ranks: int) -> Iterator[None]:
    """Say which ranks are missing, if the ranks do not meet in this context within seconds."""
    where = ":".join(os.environ.get(name, "") for name in MEETING)
    others = f"{ranks - 1} other rank{'s' * (ranks > 2)}"
    words = f"waiting for {others} at {where}; unset WORLD_SIZE to run alone"
    timer = threading.Timer(PATIENCE, print, [words], {"flush": True})
    timer.daemon = True
    if is_first_of_host():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
