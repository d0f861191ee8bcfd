"""The files that a user means: names, folders, patterns and the standard input."""

import glob
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from data.readers import KINDS, kind
from errors import InputError

STDIN = Path("/dev/stdin")
# The first bytes tell what comes through a pipe; what is compressed is taken for JSON lines.
BEGINNINGS = {
    b"\x1f\x8b": ".jsonl.gz",
    b"\xfd7zXZ": ".jsonl.xz",
    b"\x28\xb5\x2f\xfd": ".jsonl.zst",
    b"PAR1": ".parquet",
}
PEEK = 1 << 12


@contextmanager
def found(
    train: Sequence[Path], val: Sequence[Path], out: Path
) -> Iterator[tuple[tuple[Path, ...], tuple[Path, ...]]]:
    """Yield the files to train on and to validate on.

    A folder stands for all files in it that can be read, in order of their paths; a pattern such
    as ``'logs/**/*.jsonl'`` for those that match; `STDIN` and pipes for what comes through
    them, kept in files next to ``out`` meanwhile, because it is read several times.

    Raises:
        InputError: a name, folder or pattern stands for no file; or `STDIN` is given twice.
    """
    if [*train, *val].count(STDIN) > 1:
        raise InputError("-: the standard input can be read once; give files for the rest")
    streams = [path for path in (*train, *val) if path == STDIN or path.is_fifo()]
    if not streams:
        yield _expanded(train), _expanded(val)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".stdin-", dir=out.parent) as folder:
        kept: dict[Path, Path] = {}
        for path in streams:
            name = "stdin" if path == STDIN else f"pipe{len(kept)}"
            with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as stream:
                kept[path] = _kept(stream, Path(folder), name)
        yield _expanded(train, kept), _expanded(val, kept)


def _expanded(given: Sequence[Path], kept: Mapping[Path, Path] = {}) -> tuple[Path, ...]:
    files: dict[Path, None] = {}
    for path in given:
        files |= dict.fromkeys([kept[path]] if path in kept else _files(path))
    return tuple(files)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted(each for each in path.rglob("*") if each.is_file() and kind(each))
        shown = [each for each in inside if not _hidden(each.relative_to(path))]
        if not shown:
            raise InputError(f"{path}: holds no file that can be read; give {KINDS}")
        return shown
    if not path.exists() and glob.has_magic(str(path)):
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207, a path may be absolute
        matches = [Path(name) for name in sorted(names)]
        files = [each for each in matches if each.is_file()]
        if not files:
            raise InputError(f"{path}: no file matches")
        return files
    return [path]


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _kept(stream: BinaryIO, folder: Path, name: str) -> Path:
    """Copy a stream to a file whose suffix says what it is."""
    beginning = stream.read(PEEK)
    first = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    suffix = {b"{": ".jsonl", b"[": ".json"}.get(first, ".txt")
    for magic, known in BEGINNINGS.items():
        suffix = known if beginning.startswith(magic) else suffix
    path = folder / f"{name}{suffix}"
    with path.open("wb") as file:
        file.write(beginning)
        shutil.copyfileobj(stream, file)
    return path
