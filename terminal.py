"""Where tables are printed: as wide as a terminal, and readable on a narrow one."""

import os
import sys

from rich.console import Console
from rich.table import Table

ANY_WIDTH = 10_000  # columns: more than any table has


def console(*, markup: bool = False) -> Console:
    """Return the standard output; pipes and files have lines of any length without COLUMNS."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = None if narrow else ANY_WIDTH
    return Console(highlight=False, markup=markup, soft_wrap=True, width=width)


def show(table: Table, out: Console) -> None:
    """Print a table; if its words do not fit the width, a line for each row instead."""
    whole = out.measure(table, options=out.options.update(width=ANY_WIDTH))
    if whole.minimum <= out.width:
        out.print(table, soft_wrap=False)
        return
    if table.title:
        out.print(table.title)
    headings = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        named = zip(headings, cells, strict=True)
        out.print(", ".join(f"{name} {cell}".strip() for name, cell in named if str(cell)))
    if table.caption:
        out.print(table.caption)
