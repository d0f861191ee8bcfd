"""SHA-256 of large files, kept between programs as long as a file is the same."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from files import sha256
from reading import cache

TABLE = "sha256"
MOST = 2_000  # files


def sha256_of(paths: Sequence[Path]) -> list[str]:
    """Return each file's SHA-256 in hexadecimal.

    A file is read again only if its path, size, inode or one of its times changed. Several files
    are read in parallel.

    Raises:
        OSError: a file cannot be read.
    """
    known = cache.load(TABLE)
    identities = [_identity(path) for path in paths]
    missing = {i: path for i, path in zip(identities, paths, strict=True) if i not in known}
    if missing:
        with ThreadPoolExecutor() as pool:
            known |= dict(zip(missing, pool.map(sha256, missing.values()), strict=True))
        cache.save(TABLE, known, MOST)
    return [known[identity] for identity in identities]


def _identity(path: Path) -> str:
    # Nobody can set the time of the last change of status, so it tells that a file is the same.
    facts = path.stat()
    times = f"{facts.st_mtime_ns} {facts.st_ctime_ns}"
    return f"{facts.st_dev} {facts.st_ino} {facts.st_size} {times} {str(path.resolve())!a}"
