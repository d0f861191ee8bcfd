"""Where tables are printed: as wide as a terminal, and readable on a narrow one."""

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text, TextType

ANY_WIDTH = 10_000  # columns: more than any table has
BETWEEN = 2  # columns of space, where there are no borders
INDENT = "  "  # of a row's further lines


def console(*, markup: bool = False) -> Console:
    """Return the standard output; pipes and files have lines of any length without COLUMNS."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = None if narrow else ANY_WIDTH
    return Console(highlight=False, markup=markup, soft_wrap=True, width=width)


def show(table: Table | str, out: Console) -> None:
    """Print a table: with borders, or without if only that fits, or as a paragraph for each row.

    Words are whole: a line is longer than the width only if one word is. A text is a paragraph.
    """
    if isinstance(table, str):
        _paragraph(table, out)
        return
    if not _fitted(table, out):
        table.box, table.padding = None, (0, BETWEEN, 0, 0)
        table.pad_edge = False
        if not _fitted(table, out):
            _rows(table, out)
            return
    out.print(table, soft_wrap=False)


def as_text(table: Table | str) -> str:
    """Return what `show` prints on the standard output, without colours."""
    width = console().width
    out = Console(file=io.StringIO(), width=width, soft_wrap=True, color_system=None)
    with out.capture() as shown:
        show(table, out)
    return "\n".join(line.rstrip() for line in shown.get().splitlines())


def _fitted(table: Table, out: Console) -> bool:
    """Give each column a width of at least its longest word; return False if they do not fit."""
    wide = out.options.update(width=ANY_WIDTH)
    needs = [
        [Measurement.get(out, wide, cell) for cell in (column.header, *column.cells)]
        for column in table.columns
    ]
    least = [max(each.minimum for each in cells) for cells in needs]
    most = [max(each.maximum for each in cells) for cells in needs]
    around = out.measure(table, options=wide).maximum - sum(most)  # borders and padding
    spare = out.width - around - sum(least)
    if spare < 0:
        return False
    for column, width in zip(table.columns, _shared(least, most, spare), strict=True):
        column.width = width
    return True


def _shared(least: Sequence[int], most: Sequence[int], spare: int) -> list[int]:
    """Return widths of at least ``least``; those that need little get all that they need."""
    widths = list(least)
    order = sorted(range(len(widths)), key=lambda number: most[number] - least[number])
    for place, number in enumerate(order):
        more = min(most[number] - least[number], spare // (len(order) - place))
        widths[number] += more
        spare -= more
    return widths


def _rows(table: Table, out: Console) -> None:
    """Print the rows as paragraphs, each cell after its heading."""
    if table.title:
        _paragraph(table.title, out)
    headings = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        named = zip(headings, cells, strict=True)
        row = ", ".join(f"{name} {cell}".strip() for name, cell in named if str(cell))
        _paragraph(row, out)
    if table.caption:
        _paragraph(table.caption, out)


def _paragraph(said: TextType, out: Console) -> None:
    """Print a text in lines that break between words; all but the first are indented."""
    text = out.render_str(said) if isinstance(said, str) else said
    for number, line in enumerate(text.divide(_breaks(text.plain, out.width))):
        line.rstrip()
        out.print(Text(INDENT * (number > 0)) + line)


def _breaks(text: str, width: int) -> Iterator[int]:
    """Yield where the lines of a paragraph begin, but the first."""
    start, limit = 0, width
    for word in re.finditer(r"\S+", text):
        if word.start() > start and cell_len(text[start : word.end()]) > limit:
            start, limit = word.start(), width - len(INDENT)
            yield start
