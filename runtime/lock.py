"""A lock on a folder: one process at a time works on a run."""

import errno
import fcntl
import os
from pathlib import Path

from errors import InputError

NO_LOCK = -1


def lock(folder: Path) -> int:
    """Lock a folder for this process; return the descriptor that holds the lock until it is closed.

    The lock lies in no file, ends with the process, and needs no right to write. Where the file
    system has no such locks, as some NFS, it warns and returns ``NO_LOCK``.

    Raises:
        InputError: another process has the lock.
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InputError(
                f"run folder {folder} is in use by another process; wait until it ends, or end it"
            ) from None
        print(
            f"{folder} cannot be locked ({error.strerror}): start no second process on it",
            flush=True,
        )
        return NO_LOCK
    return descriptor


def unlock(descriptor: int) -> None:
    """Give back what `lock` returned."""
    if descriptor != NO_LOCK:
        os.close(descriptor)
