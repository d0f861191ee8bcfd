"""The decision log: every cycle of a run as a line of JSON, written where nothing waits for it.

A "start" line holds what the cycles after it follow from: agents with their constants, rules,
bounds, and the mesh's state. A "cycle" line holds all of a cycle and what it cost. A resumed run
adds a start line of its own.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from errors import InputError
from files import atomic_write
from swarm.mesh import Cycle, Mesh

NAME = "decisions.jsonl"
Record = dict[str, Any]


class DecisionLog:
    """Appends to a run's log from a thread of its own; a full disk costs the log, not the run.

    Args:
        path: of the log; cycles that it has beyond the mesh's are dropped: a resumed run has them
            once more.
        mesh: that decides.

    Attributes:
        error: that ended the writing; None while all is well.

    Raises:
        InputError: ``path`` is no decision log.
    """

    def __init__(self, path: Path, mesh: Mesh) -> None:
        self.error: OSError | None = None
        self._path = path
        self._queue: SimpleQueue[tuple[int, Cycle, float] | None] = SimpleQueue()
        kept = [] if not path.exists() else [r for r in read(path) if r["cycle"] <= mesh.cycles]
        with atomic_write(path) as file:
            for record in [*kept, start_record(mesh)]:
                file.write(_line(record).encode())
        self._thread = threading.Thread(target=self._write, name="decision log", daemon=True)
        self._thread.start()

    def add(self, number: int, cycle: Cycle, microseconds: float) -> None:
        """Hand over a cycle; returns at once."""
        self._queue.put((number, cycle, microseconds))

    def close(self) -> None:
        """Wait until all is written."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
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
    """What a mesh's next cycles follow from, besides snapshots; plain JSON."""
    return _plain(
        {
            "kind": "start",
            "cycle": mesh.cycles,
            "agents": {agent.name: vars(agent) for agent in mesh.agents},
            "rules": vars(mesh.rules),
            "bounds": {lever: limit._asdict() for lever, limit in mesh.bounds.items()},
            "state": mesh.state(),
        }
    )


def cycle_record(number: int, cycle: Cycle) -> Record:
    """A cycle as plain JSON."""
    snapshot = cycle.snapshot._asdict() | {"levers": cycle.snapshot.levers._asdict()}
    return _plain(
        {
            "kind": "cycle",
            "cycle": number,
            "snapshot": snapshot,
            "proposals": [proposal._asdict() for proposal in cycle.proposals],
            "votes": cycle.votes,
            "verdicts": [verdict._asdict() for verdict in cycle.verdicts],
            "levers": cycle.levers._asdict(),
        }
    )


def read(path: Path) -> Iterator[Record]:
    """Each record of a decision log; a last line that a kill left torn is passed over.

    Raises:
        InputError: the file is missing or is no decision log.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; a run with --swarm leaves one"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no decision log: it is not text") from None
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):
            yield _record(path, number, line)


def _record(path: Path, number: int, line: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    known = isinstance(record, dict) and record.get("kind") in ("start", "cycle")
    if record is not None and known and isinstance(record.get("cycle"), int):
        return record
    raise InputError(f"{path}, line {number}: no record of a decision log; restore the file")


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _plain(record: Mapping[str, Any]) -> Record:
    """As JSON gives it back: lists for tuples, every digit of a float, "NaN" for an agent's NaN."""
    return json.loads(json.dumps(record), parse_constant=str)
