"""Regular files of a bounded size."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from errors import InputError

LINE_BYTES = 1 << 22


def open_regular(path: Path, remedy: str, *, links: bool = True) -> BinaryIO:
    """Open a file to read it; a pipe or device is refused before it can block.

    Args:
        remedy: what the user can do, the end of the error's line.
        links: whether the path's last part may be a symbolic link.

    Raises:
        InputError: missing, no regular file, a link that is not allowed, or not readable.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    if not links and path.is_symlink():
        raise InputError(f"{path}: is a link; {remedy}")
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); {remedy}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path}: is no regular file; {remedy}")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, limit: int, remedy: str, *, links: bool = True) -> bytes:
    """Return a file's content.

    Args:
        limit: bytes that the file may have; a larger one is not read.
        remedy, links: as for `open_regular`.

    Raises:
        InputError: as `open_regular`, or too large.
    """
    with open_regular(path, remedy, links=links) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            # One byte more, to notice a file that grows.
            content = file.read(size + 1) if size <= limit else None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if content is None or len(content) > limit:
        raise InputError(f"{path}: larger than {limit:,} bytes; {remedy}")
    return content


def read_lines(path: Path, remedy: str, *, links: bool = True) -> Iterator[bytes]:
    """Yield a file's lines with their ends; one of more than `LINE_BYTES` comes in parts.

    Raises:
        InputError: as `open_regular`.
    """
    with open_regular(path, remedy, links=links) as file:
        while line := file.readline(LINE_BYTES):
            yield line
