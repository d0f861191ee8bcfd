"""Readers of files: .txt, .jsonl and .json, plain or compressed, and .parquet."""

import codecs
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO

from data.compression import COMPRESSED, decompressed
from data.documents import FIELD, BadRecordError, Corpus, Document, OnBad, parts, refuse, whole
from errors import InputError

PARQUET_ROWS = 1024
BLOCK = 1 << 20
NAMES = 8
KINDS = ".txt, .jsonl, .json (each also with .gz, .xz, .zst) or .parquet"
SEPARATOR = re.compile(r"[\s,]*")
# Integers of any length are read, but not converted: no text is one.
DECODER = json.JSONDecoder(parse_int=len)


def corpus(paths: tuple[Path, ...], name: str = FIELD, *, skip_bad: bool = False) -> Corpus:
    """Return the documents of files.

    Args:
        paths: the files.
        name: field of a JSON object, or column of a table, that holds the text.
        skip_bad: as for `Corpus`.
    """
    return Corpus(paths, partial(read_file, name=name), skip_bad, name)


def kind(path: Path) -> str | None:
    """Return the suffix that says what a file holds, without that of its compression."""
    name = Path(path.name.lower())
    inner = Path(name.stem) if name.suffix in COMPRESSED else name
    known = READERS if name.suffix in COMPRESSED else (*READERS, ".parquet")
    return inner.suffix if inner.suffix in known else None


def read_file(path: Path, on_bad: OnBad = refuse, name: str = FIELD) -> Iterator[Document]:
    """Return the documents of one file, in order; those without any text are left out.

    Args:
        path: the file.
        on_bad: is called for a record without readable text.
        name: of the field or column with the text.

    Raises:
        InputError: the file's kind is unknown, or it is corrupt.
    """
    found = kind(path)
    if found is None:
        raise InputError(f"{path}: unknown kind of file; give {KINDS}")
    if found == ".parquet":
        return _read_parquet(path, on_bad, name)
    return READERS[found](path, on_bad, name)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO, list[int]]]:
    """Yield the file, its content, and a list whose last number is the line that was read.

    Raises:
        InputError: the content is corrupt.
    """
    lines = [0]
    with path.open("rb") as raw:
        try:
            yield raw, decompressed(raw, path.suffix.lower()), lines
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            after = f" after line {lines[-1]}" if kind(path) == ".jsonl" else ""
            raise InputError(
                f"{path}: corrupt or cut off{after} ({error}); fetch it again"
            ) from None


def _read_text(path: Path, on_bad: OnBad, name: str) -> Iterator[Document]:
    if on_bad is not refuse:
        # Parts that are out cannot be taken back, so a file that may be left out is read twice.
        try:
            with _opened(path) as (_, content, _):
                for _ in _decoded(content, path):
                    pass
        except BadRecordError as bad:
            return on_bad(bad)
    with _opened(path) as (raw, content, _):
        begun = False
        for part in parts(_decoded(content, path)):
            if begun or part.strip():
                yield Document(part, raw.tell(), begun)
                begun = True


def _decoded(content: BinaryIO, path: Path) -> Iterator[str]:
    """Yield text in blocks, without a byte order mark.

    Raises:
        BadRecordError: it is not UTF-8.
    """
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    block = content.read(BLOCK)
    if block.startswith(codecs.BOM_UTF8):
        block, done = block[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
    while True:
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            place = done - waiting + error.start
            raise BadRecordError(path, "", f"not UTF-8 text (byte {place:,})") from None
        if not block:
            return
        yield text
        done += len(block)
        block = content.read(BLOCK)


def _read_lines(path: Path, on_bad: OnBad, name: str) -> Iterator[Document]:
    with _opened(path) as (raw, content, lines):
        for lines[-1], line in enumerate(content, start=1):
            if not line.strip():
                continue
            try:
                text = _parsed(line, path, f":{lines[-1]}", name)
            except BadRecordError as bad:
                on_bad(bad)
                continue
            yield from whole(text, raw.tell())


def _parsed(line: bytes, path: Path, place: str, name: str) -> str:
    try:
        record = DECODER.decode(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise BadRecordError(path, place, f"not JSON ({error.msg}, column {error.colno})") from None
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 text (byte {error.start} of the line)"
        raise BadRecordError(path, place, reason) from None
    except RecursionError:
        raise BadRecordError(path, place, "nested too deeply") from None
    return _text_of(record, path, place, name)


def _read_json(path: Path, on_bad: OnBad, name: str) -> Iterator[Document]:
    with _opened(path) as (raw, content, _):
        for number, record in enumerate(_values(_decoded(content, path), path), start=1):
            try:
                text = _text_of(record, path, f": record {number}", name)
            except BadRecordError as bad:
                on_bad(bad)
                continue
            yield from whole(text, raw.tell())


def _values(blocks: Iterator[str], path: Path) -> Iterator[Any]:
    """Yield the values of a list, or of a file of values one after the other.

    Raises:
        InputError: it is not JSON.
    """
    buffer = next(blocks, "").lstrip()
    place, in_list = int(buffer.startswith("[")), buffer.startswith("[")
    for number in count(1):
        place = SEPARATOR.match(buffer, place).end()  # pyright: ignore[reportOptionalMemberAccess]
        while True:
            if in_list and buffer.startswith("]", place):
                return
            try:
                value, place = DECODER.raw_decode(buffer, place)
                break
            except (json.JSONDecodeError, RecursionError) as error:
                # At least doubled, because the record is parsed anew.
                more, buffer = _at_least(blocks, len(buffer) - place), buffer[place:]
                if not more and not buffer.strip() and not in_list:
                    return
                if not more or not _may_go_on(error, buffer, place):
                    said = getattr(error, "msg", "nested too deeply")
                    raise InputError(f"{path}: record {number}: not JSON ({said})") from None
                buffer, place = (buffer + more).lstrip(" \t\r\n,"), 0
        yield value


def _at_least(blocks: Iterator[str], characters: int) -> str:
    found: list[str] = []
    for block in blocks:
        found.append(block)
        characters -= len(block)
        if characters <= 0:
            break
    return "".join(found)


def _may_go_on(error: Exception, rest: str, place: int) -> bool:
    """Whether a value may be whole once more of the file is read."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated") or error.pos - place > len(rest) - 16


def _text_of(record: object, path: Path, place: str, name: str) -> str:
    if isinstance(record, str):
        return _checked(record, path, place, name)
    if not isinstance(record, dict) or name not in record:
        raise BadRecordError(path, place, f'no field "{name}"{_others(record)}')
    return _checked(record[name], path, place, name)


def _others(record: object) -> str:
    """Return which fields or columns there are, for an error."""
    names = [repr(str(each)[:40]) for each in record] if isinstance(record, dict | list) else []
    if not names or not isinstance(record, dict):
        return " (no object)"
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return f"; there are {', '.join(names[:NAMES])}{more}: name one by --field"


def _checked(text: object, path: Path, place: str, name: str) -> str:
    """Return ``text`` if it is a string of whole characters, or UTF-8.

    Raises:
        BadRecordError: it is not.
    """
    if isinstance(text, bytes):
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise BadRecordError(path, place, f"not UTF-8 text (byte {error.start})") from None
    if not isinstance(text, str):
        raise BadRecordError(path, place, f'no string in the field "{name}"')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecordError(path, place, "half a surrogate pair: not Unicode text") from None
    return text


def _read_parquet(path: Path, on_bad: OnBad, name: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    size, row = path.stat().st_size, 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if name not in names:
                raise InputError(f'{path}: no column "{name}"{_others(dict.fromkeys(names))}')
            batches = file.iter_batches(PARQUET_ROWS, columns=[name])
            values = chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
            for row, value in enumerate(values, start=1):
                try:
                    text = _checked(value, path, f": row {row}", name)
                except BadRecordError as bad:
                    on_bad(bad)
                    continue
                yield from whole(text, size * row // file.metadata.num_rows)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: corrupt after row {row} ({reason}); fetch it again") from None


READERS = {".txt": _read_text, ".jsonl": _read_lines, ".json": _read_json}
