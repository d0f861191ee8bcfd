"""Columns of TSV, CSV and JSONL files, plain or compressed (.gz, .xz, .zst), read by Arrow."""

import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import csv, json

from data.compression import COMPRESSED, decompressed
from errors import InputError
from reading.structured import parse_json

KINDS = (".tsv", ".csv", ".jsonl")
TEXT, NUMBER = pa.string(), pa.int64()
LONGEST = 1 << 20  # bytes of a first line that is looked at

Report = Callable[[float], object]
"""Hears what share of the work is done, up to one."""


def read_columns(path: Path, columns: Sequence[str], report: Report) -> pa.Table:
    """Return columns of a file as text; ``report`` gets the fraction that was read.

    TSV and CSV begin with a line of names; CSV may quote, TSV may not. A line of JSONL is an object
    that holds the columns as strings, or as integers if the first line does. Other columns are
    ignored.

    Raises:
        InputError: missing, of unknown kind, corrupt, without one of the columns, or empty.
    """
    kind = kind_of(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            types = types_of(path, columns) if kind == ".jsonl" else dict.fromkeys(columns, TEXT)
            file = decompressed(raw, path.suffix.lower())
            batches = list(_batches(file, kind, types, lambda: report(raw.tell() / size)))
        table = pa.Table.from_batches(batches) if batches else None
    except (pa.ArrowException, OSError, EOFError, zlib.error, lzma.LZMAError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as {kind[1:]} ({reason})") from None
    if table is None or not table.num_rows:
        raise InputError(f"{path}: holds no rows")
    for name in columns:
        if table[name].null_count:
            raise InputError(f"{path}: {table[name].null_count:,} rows lack {name!r}")
    return table


def kind_of(path: Path) -> str:
    """Return ``.tsv``, ``.csv`` or ``.jsonl``, whatever the compression.

    Raises:
        InputError: it is none of them.
    """
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    if inner.suffix.lower() not in KINDS:
        endings = f"{', '.join(KINDS)}, each also with {', '.join(COMPRESSED)}"
        raise InputError(f"{path}: unknown kind of file; there are: {endings}")
    return inner.suffix.lower()


def types_of(path: Path, columns: Sequence[str]) -> dict[str, pa.DataType]:
    """Return the types of columns of a JSONL file by its first line: text or 64-bit integers."""
    with path.open("rb") as raw:
        line = decompressed(raw, path.suffix.lower()).readline(LONGEST)
    try:
        first = parse_json(line)
    except ValueError:
        first = None  # Arrow says what is wrong
    known = first if isinstance(first, dict) else {}
    return {name: NUMBER if type(known.get(name)) is int else TEXT for name in columns}


def _batches(
    file: BinaryIO, kind: str, types: Mapping[str, pa.DataType], report: Callable[[], object]
) -> Iterator[pa.RecordBatch]:
    texts = pa.schema(dict.fromkeys(types, TEXT))
    for batch in _open(file, kind, types):
        report()
        wanted = batch.select(list(types))
        wanted.validate(full=True)  # the reader of JSON does not check UTF-8
        yield wanted.cast(texts)


def _open(file: BinaryIO, kind: str, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Return Arrow's reader of record batches of about a megabyte of text."""
    if kind == ".jsonl":
        options = json.ParseOptions(
            explicit_schema=pa.schema(types), unexpected_field_behavior="ignore"
        )
        return json.open_json(file, parse_options=options)
    quoted = kind == ".csv"
    return csv.open_csv(
        file,
        parse_options=csv.ParseOptions(
            delimiter="," if quoted else "\t",
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,
        ),
        convert_options=csv.ConvertOptions(column_types=types, include_columns=list(types)),
    )
