"""Replay: recompute every decision of a log from the snapshots that it holds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from errors import InputError
from swarm.agents import AGENTS
from swarm.decision_log import Record, cycle_record, start_record
from swarm.levers import Choice, Limits, Number
from swarm.mesh import Mesh, Rules
from swarm.telemetry import Snapshot
from swarm.trials import Trials
from swarm.yoke import Yoke


def replay(path: Path, records: Iterable[Record]) -> tuple[int, list[str]]:
    """Recompute each cycle; return the number of cycles, and a line for each difference.

    Args:
        path: of the log, for messages.
        records: of the log, in order.

    Raises:
        InputError: a record is incomplete, or the log has agents that this code does not have.
    """
    mesh, before = None, None
    count, differences = 0, []
    for record in records:
        try:
            again = _rebuilt(record) if record["kind"] == "start" else mesh
            if again is None:
                raise InputError(f"{path} does not begin with a start line; restore the file")
            if record["kind"] == "start":
                differences += _compare("start", record, start_record(mesh or again))
                mesh = again
                continue
            count += 1
            found = cycle_record(again.cycles + 1, again.cycle(_snapshot(record["snapshot"])))
            where = f"cycle {found['cycle']}"
            differences += _compare(where, record, found)
            if before is not None and record["snapshot"]["levers"] != before:
                differences.append(f"{where}: levers are not those that the cycle before left")
            before = record["levers"]
        except (AttributeError, LookupError, ArithmeticError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            where = f"cycle {record['cycle']!s:.40}"
            what = f"damaged ({error!r:.200})"
            raise InputError(f"{path}, {where}: {what}; restore the file") from None
    return count, differences


def _compare(where: str, logged: Record, found: Record) -> list[str]:
    return [
        f"{where}: {field} is {logged.get(field)}, recomputed {value}"
        for field, value in found.items()
        if logged.get(field) != value
    ]


def _rebuilt(record: Record) -> Mesh:
    """Return the mesh of a start line."""
    kinds = {kind.name: kind for kind in AGENTS}
    missing = set(record["agents"]) - set(kinds)
    if missing:
        raise InputError(
            f"the log has agents that this code has not: {', '.join(sorted(missing)):.200}; "
            "replay it with the code that wrote it"
        )
    bounds = {lever: _limits(fields) for lever, fields in record["bounds"].items()}
    agents = [kinds[name](**constants) for name, constants in record["agents"].items()]
    kind = Trials if "trials" in record["state"] else Mesh
    yoked = "yoke" in record["state"]
    mesh = Yoke(bounds) if yoked else kind(agents, bounds, Rules(**record["rules"]))
    mesh.load(record["state"])
    return mesh


def _limits(fields: dict[str, Any]) -> Limits:
    if "options" in fields:
        return Choice(tuple(fields["options"]), fields["hold"], fields.get("sure"))
    return Number(**fields)


def _snapshot(fields: dict[str, Any]) -> Snapshot:
    """Return a snapshot with exactly the signals and levers that the log has."""
    base = {name: fields[name] for name in Snapshot._fields if name != "signals"}
    signals = {name: value for name, value in fields.items() if name not in base}
    return Snapshot(**base, signals=signals)
