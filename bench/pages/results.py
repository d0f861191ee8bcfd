"""Tables of the files in ``bench/results/``, with the record that stands above each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Lines that bench.harness.record prints, and the run's table of scores.
RECORD = re.compile(r"(device|torch|python|commit|date): (.+)")
SCORES = re.compile(r"\s*weights, method\s{2,}")
WIDE_GAP = re.compile(r"\s{2,}")
# A contest's peer: microseconds, then others in brackets, as in "compiled us (ratio, GiB)".
PEER = re.compile(r"(.+) us \((.+)\)")


@dataclass(frozen=True)
class Table:
    """One table of a result file.

    Attributes:
        path: the file.
        columns: their names. A name that occurs twice is preceded by the last name that does not,
            as in "raw, plain: p".
        rows: the cells, as they were printed.
        record: device, torch, python, commit and date, as far as the file has them.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    record: Mapping[str, str]

    @property
    def labels(self) -> tuple[str, ...]:
        """The first cell of each row."""
        return tuple(row[0] for row in self.rows)

    def cells(self, row: Sequence[str]) -> dict[str, str]:
        """Return the cells of a row, and of its record, by column.

        A peer's cell is also there in parts, as "compiled us", "compiled ratio", "compiled GiB".
        """
        cells = {**self.record, **dict(zip(self.columns, row, strict=True))}
        parts = [peer_parts(column, cells[column]) for column in self.columns]
        return {name: part for each in parts for name, part in each.items()} | cells


def read_tables(path: Path) -> list[Table]:
    """Return the tables of a result file, in order.

    Markdown tables, and the scores that a run prints at its end, are tables.
    """
    record: dict[str, str] = {}
    found = []
    for block in blocks(path.read_text(encoding="utf-8").splitlines()):
        record |= {match[1]: match[2] for line in block if (match := RECORD.fullmatch(line))}
        rows = table_rows(block)
        if rows:
            body = tuple(row for row in rows[1:] if len(row) == len(rows[0]))
            found.append(Table(path, unique(rows[0]), body, dict(record)))
    return found


def peer_parts(column: str, cell: str) -> dict[str, str]:
    """Return the parts of a peer's cell by name, dashes if it was not timed; none of another's."""
    match = PEER.fullmatch(column)
    if not match:
        return {}
    names = ["us", *match[2].split(", ")]
    found = re.findall(r"[^\s(),]+", cell) if cell != "-" else ["-"] * len(names)
    return {f"{match[1]} {name}": part for name, part in zip(names, found, strict=True)}


def blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield runs of lines that are all of a table, or all not."""
    block: list[str] = []
    kind = ""
    for line in lines:
        now = "|" if line.startswith("|") else "scores" if SCORES.match(line) else ""
        if kind == "scores" and not now and len(WIDE_GAP.split(line.strip())) > 1:
            now = kind
        if now != kind:
            yield block
            block, kind = [], now
        block.append(line)
    yield block


def table_rows(block: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the rows of a block of lines, the header first; none if it is no table."""
    if block and block[0].startswith("|"):
        return [cells_of(line) for line in block if not is_rule(line)]
    if block and SCORES.match(block[0]):
        return [tuple(WIDE_GAP.split(line.strip())) for line in block]
    return []


def cells_of(line: str) -> tuple[str, ...]:
    """Return the cells of one line of a Markdown table."""
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def is_rule(line: str) -> bool:
    """Return whether a line separates a table's header from its body."""
    return set(line) <= set("|-: ")


def unique(names: Sequence[str]) -> tuple[str, ...]:
    """Return column names without repetition, as `Table` describes."""
    single, found = "", []
    for name in names:
        repeated = names.count(name) > 1
        single = single if repeated else name
        found.append(f"{single}: {name}" if repeated else name)
    return tuple(found)
