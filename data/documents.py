"""Readers: the documents in .txt, .jsonl (plain, .gz, .xz, .zst) and .parquet files."""

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from errors import InputError

FIELD = "text"
PARQUET_ROWS = 1024
COMPRESSED = (".gz", ".xz", ".zst")

Document = tuple[str, int]
"""A document's text, and how many bytes of its file have been read once it is out."""


def read_file(path: Path) -> Iterator[Document]:
    """Return the documents of one file, in order; those without any text are left out.

    Raises:
        InputError: the file's kind is unknown, or it is corrupt, or a record holds no text.
    """
    name = path.name.lower()
    if name.endswith(".txt"):
        return _read_text(path)
    if name.endswith((".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst")):
        return _read_jsonl(path)
    if name.endswith(".parquet"):
        return _read_parquet(path)
    raise InputError(f"{path}: unknown kind of file; give .txt, .jsonl[.gz|.xz|.zst] or .parquet")


@dataclass(frozen=True)
class Corpus:
    """The documents of several files, read anew at each call of ``documents``."""

    paths: tuple[Path, ...]
    read: Callable[[Path], Iterator[Document]] = read_file

    @property
    def size(self) -> int:
        """Bytes of the files on the disk."""
        return sum(path.stat().st_size for path in self.paths)

    def check(self) -> None:
        """Look for each file and its first document, so that most mistakes show before any work.

        Raises:
            InputError: a file is missing, of an unknown kind, unreadable or without a document.
        """
        for path in self.paths:
            if not path.is_file():
                raise InputError(f"{path}: no such file")
            if next(self.read(path), None) is None:
                raise InputError(f"{path}: holds no document")

    def documents(self, report: Callable[[int], object] = lambda consumed: None) -> Iterator[str]:
        """Yield every document's text; ``report`` gets the bytes read so far.

        Raises:
            InputError: as ``read_file``.
        """
        finished = 0
        for path in self.paths:
            for text, consumed in self.read(path):
                report(finished + consumed)
                yield text
            finished += path.stat().st_size
        report(finished)


def check_text(text: object, where: str) -> str:
    """Return ``text`` if it is a string of whole characters.

    Raises:
        InputError: it is not; the message begins with ``where``.
    """
    if not isinstance(text, str):
        raise InputError(f'{where}: no string in the field "{FIELD}"')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: half a surrogate pair: not Unicode text") from None
    return text


def _read_text(path: Path) -> Iterator[Document]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start:,})") from None
    if text.strip():
        yield text, len(content)


def _read_jsonl(path: Path) -> Iterator[Document]:
    number = 0
    with path.open("rb") as raw:
        try:
            for number, line in enumerate(decompressed(raw, path.suffix.lower()), start=1):
                text = _parse(line, f"{path}:{number}") if line.strip() else ""
                if text.strip():
                    yield text, raw.tell()
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise InputError(
                f"{path}: corrupt or cut off after line {number} ({error}); fetch it again"
            ) from None


def decompressed(raw: BinaryIO, suffix: str) -> BinaryIO:
    """Return the content of a file, decompressed if its last suffix is in ``COMPRESSED``."""
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(raw))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(raw))
    if suffix == ".zst":
        # Arrow's stream notices a file that was cut off; the zstandard package's ends in silence.
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")
        return cast(BinaryIO, BufferedReader(stream))
    return raw


def _parse(line: bytes, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg}, column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start} of the line)") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply") from None
    if not isinstance(record, dict) or FIELD not in record:
        raise InputError(f'{where}: no field "{FIELD}"')
    return check_text(record[FIELD], where)


def _read_parquet(path: Path) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    size, row = path.stat().st_size, 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if FIELD not in file.schema_arrow.names:
                raise InputError(f'{path}: no column "{FIELD}"')
            batches = file.iter_batches(PARQUET_ROWS, columns=[FIELD])
            values = chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
            for row, value in enumerate(values, start=1):
                text = check_text(value, f"{path}: row {row}")
                if text.strip():
                    yield text, size * row // file.metadata.num_rows
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: corrupt after row {row} ({error}); fetch it again") from None


def check_apart(train: Sequence[Path], val: Sequence[Path]) -> None:
    """Check that no file is both trained on and validated on.

    Raises:
        InputError: one is.
    """
    for path in {path.resolve() for path in train} & {path.resolve() for path in val}:
        raise InputError(f"{path}: given both to train and to validate; a score would mean nothing")
