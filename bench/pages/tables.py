"""Write the tables of the documentation that are generated from ``bench/results/``.

    python -m bench tables
    python -m bench tables --check

A comment in a Markdown file describes the table below it:

    <!-- table: bench/results/sprint-parity-h200.md bench/results/sprint-mtp-h200.md
    columns: label = run | seed | int6 or roundtrip, plain = int6 | commit | result
    rows: MTP off, same steps = without MTP | MTP on, same steps -->

``FILE#2`` is a file's second table. ``columns`` selects columns; ``= NAME`` renames one, and
``A or B`` takes the first that a table has, and ``A / B`` divides one by another. ``device``,
``commit`` and ``date`` are of the record above the table, ``result`` is a link to the file.
``rows`` selects rows by their first cell and renames them; if several files have such rows, the
first one counts. Each line may be repeated to add to its list. Without ``columns`` or ``rows`` a
table has all of them. With ``--check`` nothing is written, and the exit code is 1 if a page
differs.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.pages.results import Table, read_tables
from errors import InputError
from files import PROJECT, write_text

MARKED = re.compile(r"(<!-- table: ([^>]*?) *-->\n)\n*((?:\|.*\n)*)")
FOLDERS = (".", "docs", "kernels", "kernels/*", "knowledge/*")
LINK, OR, OVER = "result", " or ", " / "
COMMIT_CHARACTERS = 7


def main(*, check: bool = False) -> int:
    """Write every page whose tables differ from the results, and print its name.

    Args:
        check: write nothing
    """
    differing = [path for path in pages() if path.read_text(encoding="utf-8") != written(path)]
    for path in differing:
        print(path.relative_to(PROJECT))
        if not check:
            write_text(path, written(path))
    return int(check and bool(differing))


def pages() -> list[Path]:
    """Return the Markdown files of the documentation."""
    return [path for folder in FOLDERS for path in sorted(PROJECT.glob(f"{folder}/*.md"))]


def written(path: Path) -> str:
    """Return the text of a page with its marked tables generated.

    Raises:
        InputError: a marker names a file, table, column or row that does not exist.
    """
    text = path.read_text(encoding="utf-8")

    def one(marked: re.Match[str]) -> str:
        try:
            end = "\n" if marked[3] else "\n\n"
            return f"{marked[1]}\n{generated(marked[2], path.parent)}{end}"
        except InputError as error:
            line = text.count("\n", 0, marked.start()) + 1
            raise InputError(f"{path.relative_to(PROJECT)}:{line}: {error}") from None

    return MARKED.sub(one, text)


def generated(marker: str, folder: Path) -> str:
    """Return the Markdown table that a marker describes, for a page in ``folder``."""
    sources, *options = marker.splitlines()
    choices = {"columns": "", "rows": ""}
    for option in options:
        name, separator, values = option.partition(":")
        if name.strip() not in choices or not separator:
            raise InputError(f"{option!r} is neither 'columns: ...' nor 'rows: ...'")
        choices[name.strip()] += f" | {values}"
    tables = [source(name) for name in sources.split()]
    columns = parsed(choices["columns"]) or [(name, name) for name in tables[0].columns]
    names = parsed(choices["rows"])
    check_columns(tables, [name for name, _ in columns])
    lines = [[shown for _, shown in columns], ["---"] * len(columns)]
    for table, row, shown in selected(tables, names):
        cells = {**table.cells(row), table.columns[0]: shown}
        lines.append([value(table, cells, wanted, folder) for wanted, _ in columns])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def source(name: str) -> Table:
    """Return the table that ``FILE`` or ``FILE#NUMBER`` names."""
    file, _, number = name.partition("#")
    path = PROJECT / file
    if not path.is_file():
        raise InputError(f"{file} does not exist")
    tables = read_tables(path)
    wanted = int(number or 1)
    if not 1 <= wanted <= len(tables):
        raise InputError(f"{file} has {len(tables)} tables, not a number {wanted}")
    return tables[wanted - 1]


def parsed(choice: str) -> list[tuple[str, str]]:
    """Return the names that an option lists, each with the name that the page shows."""
    items = [item.partition(" = ") for item in choice.split(" | ") if item.strip()]
    return [(name.strip(), (shown or name).strip()) for name, _, shown in items]


def selected(
    tables: Sequence[Table], names: Sequence[tuple[str, str]]
) -> Iterator[tuple[Table, tuple[str, ...], str]]:
    """Yield the rows to show, with their table and the first cell that the page shows."""
    if not names:
        yield from ((table, row, row[0]) for table in tables for row in table.rows)
    for name, shown in names:
        table = next((table for table in tables if name in table.labels), None)
        if table is None:
            there = ", ".join(dict.fromkeys(label for table in tables for label in table.labels))
            raise InputError(f"no row {name!r}; there are: {there}")
        yield from ((table, row, shown) for row in table.rows if row[0] == name)


def check_columns(tables: Sequence[Table], columns: Sequence[str]) -> None:
    """Check that each column is in at least one table.

    Raises:
        InputError: a column is in none.
    """
    there = {name: None for table in tables for name in (*table.columns, *table.record)}
    cells = [table.cells(table.rows[0]) for table in tables if table.rows]
    for wanted in columns:
        if wanted != LINK and all(found(each, wanted) is None for each in cells):
            raise InputError(f"no column {wanted!r}; there are: {', '.join(there)}")


def value(table: Table, cells: dict[str, str], wanted: str, folder: Path) -> str:
    """Return one cell, a dash if this table does not have the column."""
    if wanted == LINK:
        return f"[{table.path.stem}]({Path(os.path.relpath(table.path, folder)).as_posix()})"
    cell = found(cells, wanted)
    return "-" if cell is None else cell[:COMMIT_CHARACTERS] if wanted == "commit" else cell


def found(cells: Mapping[str, str], wanted: str) -> str | None:
    """Return the cell of the first column of ``A or B`` that there is; None: there is none."""
    cells_found = (one_of(cells, name) for name in wanted.split(OR))
    return next((cell for cell in cells_found if cell is not None), None)


def one_of(cells: Mapping[str, str], name: str) -> str | None:
    """Return the cell of a column, or of one over another; None if there is none."""
    above, over, below = name.partition(OVER)
    if name in cells or not over or not {above, below} <= cells.keys():
        return cells.get(name)
    return f"{float(cells[above]) / float(cells[below]):.2f}"
