"""The decision log: every cycle of a run as a line of JSON, written by a thread.

A "start" line has what determines the following cycles: the agents with their constants, the
rules, the limits, and the mesh's state. A "cycle" line has a cycle and the time that it took. A
resumed run adds another start line.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from errors import InputError
from files import atomic_write
from reading.regular import read_lines
from reading.structured import Form, checked, parse_json
from swarm.levers import Limits
from swarm.mesh import Cycle, Mesh

NAME = "decisions.jsonl"
Record = dict[str, Any]


class Start(Form):
    """A "start" line, as far as it is read without the agents' code."""

    cycle: int
    agents: dict[str, dict[str, Any]]
    rules: dict[str, Any]
    bounds: dict[str, dict[str, Any]]
    state: dict[str, Any]


class Moment(Form):
    """Of a snapshot: what the table of decisions shows."""

    step: int
    progress: float


class Proposed(Form):
    """Of a proposal: what the table of decisions shows."""

    lever: str
    reason: str


class Verdict(Form):
    """What the mesh decided about a lever."""

    lever: str
    before: float
    after: float
    rule: str
    agents: list[str]


class Decided(Form):
    """A "cycle" line, as far as it is read without replaying it."""

    cycle: int
    snapshot: Moment
    proposals: list[Proposed]
    verdicts: list[Verdict]
    microseconds: float


FORMS: dict[str, type[Form]] = {"start": Start, "cycle": Decided}


class DecisionLog:
    """Appends to a run's log in a thread; a full disk ends the log, not the run.

    Args:
        path: of the log. Cycles after the mesh's last one are dropped, because a resumed run
            repeats them.
        mesh: whose cycles are logged.

    Attributes:
        error: the error that ended the writing; None: there was none.

    Raises:
        InputError: ``path`` is no decision log.
    """

    def __init__(self, path: Path, mesh: Mesh) -> None:
        self.error: OSError | None = None
        self._path = path
        self._queue: SimpleQueue[tuple[int, Cycle, float] | None] = SimpleQueue()
        kept = [] if not path.exists() else [r for r in read(path) if r["cycle"] <= mesh.cycles]
        try:
            with atomic_write(path) as file:
                for record in [*kept, start_record(mesh)]:
                    file.write(_line(record).encode())
        except OSError as error:
            self.error = error
        self._thread = threading.Thread(target=self._write, name="decision log", daemon=True)
        self._thread.start()

    def add(self, number: int, cycle: Cycle, microseconds: float) -> None:
        """Queue a cycle; returns at once."""
        self._queue.put((number, cycle, microseconds))

    def close(self) -> None:
        """Wait until every queued cycle is written."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        if self.error:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                while (item := self._queue.get()) is not None:
                    number, cycle, microseconds = item
                    record = cycle_record(number, cycle) | {"microseconds": microseconds}
                    file.write(_line(record))
                    file.flush()
        except OSError as error:
            self.error = error


def start_record(mesh: Mesh) -> Record:
    """Return what determines a mesh's next cycles, except the snapshots, as plain JSON."""
    return _plain(
        {
            "kind": "start",
            "cycle": mesh.cycles,
            "agents": {agent.name: vars(agent) for agent in mesh.agents},
            "rules": vars(mesh.rules),
            "bounds": {lever: _given(limit) for lever, limit in mesh.bounds.items()},
            "state": mesh.state(),
        }
    )


def _given(limits: Limits) -> Record:
    """Return limits by name; "sure" only where it is given, as in older logs."""
    return {name: value for name, value in limits._asdict().items() if value is not None}


def cycle_record(number: int, cycle: Cycle) -> Record:
    """Return a cycle as plain JSON."""
    snapshot = cycle.snapshot._asdict()
    snapshot |= snapshot.pop("signals")
    return _plain(
        {
            "kind": "cycle",
            "cycle": number,
            "snapshot": snapshot,
            "proposals": [proposal._asdict() for proposal in cycle.proposals],
            "votes": cycle.votes,
            "verdicts": [verdict._asdict() for verdict in cycle.verdicts],
            "levers": cycle.levers,
        }
    )


def read(path: Path) -> Iterator[Record]:
    """Yield each record of a decision log; a last line that a kill left torn is skipped.

    Raises:
        InputError: the file is missing or no decision log.
    """
    for number, line in enumerate(
        read_lines(path, "a run with --swarm leaves one", links=False), 1
    ):
        if line.endswith(b"\n"):
            try:
                yield _record(line)
            except ValueError as error:
                raise InputError(
                    f"{path}, line {number}: no record of a decision log: {error}; restore the file"
                ) from None


def _record(line: bytes) -> Record:
    """Return a line's record as it is. Raises ValueError if its form is neither of the two."""
    record = parse_json(line)
    kind = record.get("kind") if isinstance(record, dict) else None
    if not isinstance(kind, str) or kind not in FORMS:
        raise ValueError("its kind is neither start nor cycle")
    checked(record, FORMS[kind])
    return record


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _plain(record: Mapping[str, Any]) -> Record:
    """Return a record as JSON restores it: tuples as lists, floats exactly, NaN as "NaN"."""
    return json.loads(json.dumps(record), parse_constant=str)
