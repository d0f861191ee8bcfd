"""The table of a swarm's decisions."""

import statistics
from collections.abc import Sequence, Sized

from rich.markup import escape
from rich.table import Table

from errors import printable
from swarm.decision_log import Record
from swarm.levers import KEEP


def decisions_table(records: Sequence[Record]) -> Table:
    """Return a table with a row for each change, and the counts and the cycles' time below it.

    Copies of the weights are only counted, because a healthy run has many of them.
    """
    cycles = [record for record in records if record["kind"] == "cycle"]
    passed = [
        (cycle, verdict)
        for cycle in cycles
        for verdict in cycle["verdicts"]
        if verdict["after"] != verdict["before"]
    ]
    rows = [(cycle, verdict) for cycle, verdict in passed if verdict["lever"] != KEEP]
    copies = len(passed) - len(rows)
    caption = f"{counted(cycles, 'cycle')}, {counted(rows, 'decision')}, "
    caption += f"{copies} {'copy' if copies == 1 else 'copies'} kept"
    table = Table(title="What the swarm decided", caption=caption + _cost(cycles))
    table.add_column("step", justify="right")
    table.add_column("progress", justify="right")
    for name in ("lever", "from", "to", "why", "rule", "agents"):
        table.add_column(name)
    for cycle, verdict in rows:
        table.add_row(
            str(cycle["snapshot"]["step"]),
            f"{cycle['snapshot']['progress']:.0%}",
            plain(verdict["lever"]),
            f"{verdict['before']:.3g}",
            f"{verdict['after']:.3g}",
            plain(_reasons(cycle, verdict["lever"])),
            plain(verdict["rule"]),
            plain(", ".join(verdict["agents"])),
        )
    return table


def decisions(records: Sequence[Record]) -> Table | str:
    """Return ``decisions_table``, or one line in place of a table without rows."""
    table = decisions_table(records)
    return table if table.row_count else f"The swarm changed nothing: {table.caption}"


def counted(things: Sized, name: str) -> str:
    """Return a number of things in words."""
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def plain(text: str) -> str:
    """Return text from a file as a cell that shows it: no markup, no control character."""
    return escape(printable(text))


def _reasons(cycle: Record, lever: str) -> str:
    reasons = [found["reason"] for found in cycle["proposals"] if found["lever"] == lever]
    return ", ".join(dict.fromkeys(reasons))


def _cost(cycles: Sequence[Record]) -> str:
    taken = [cycle["microseconds"] for cycle in cycles]
    if len(taken) < 2:
        return ""
    shares = statistics.quantiles(taken, n=100, method="inclusive")
    return f"; {shares[49]:.1f} us a cycle (p50), {shares[98]:.1f} us (p99)"
