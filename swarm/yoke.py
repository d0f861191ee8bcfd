"""The yoke: a run obeys the decisions of another run's log, whatever happens in it.

It is the control of feedback: the same levers move at the same progress, but nobody looks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from errors import InputError
from swarm.agents import AGENTS
from swarm.decision_log import NAME, read
from swarm.levers import FIELDS, KEEP, REQUESTS, ROLLBACK, SLOTS, STAGED, TRIED, LeverValues, Limits
from swarm.mesh import Cycle, Mesh, Verdict
from swarm.telemetry import Snapshot

RULE, IMPOSSIBLE = "yoked", "nothing kept"


class Point(NamedTuple):
    """What one cycle of the log changed.

    progress: fraction of that run at the cycle.
    changes: new value of each lever; of each request the copy that is meant, one of ``SLOTS``.
    """

    progress: float
    changes: Mapping[str, float]


class Yoke(Mesh):
    """A mesh without agents, which changes what a log changed, at the same progress.

    Limits do not apply a second time: a value only has to be possible in this run.

    Args:
        bounds: limits of each lever and request that this run has.
        levers: those that the log's agents steered, changed or not.
        path: the log's changes, in order.
    """

    def __init__(
        self, bounds: Mapping[str, Limits], levers: Sequence[str] = (), path: Sequence[Point] = ()
    ) -> None:
        super().__init__((), bounds)
        self.levers, self.path, self.passed = tuple(levers), tuple(path), 0
        if any(point.changes.get(KEEP) == TRIED for point in path):
            self.slots = SLOTS

    @classmethod
    def of_log(cls, log: Path, bounds: Mapping[str, Limits]) -> "Yoke":
        """Return the yoke of a decision log, or of the run folder that it lies in.

        Raises:
            InputError: it is no decision log, or has decisions that this run cannot obey.
        """
        file = log / NAME if log.is_dir() else log
        agents, path = {}, []
        for record in read(file):
            if record["kind"] == "start":
                agents |= record["agents"]
            elif changes := changes_of(record["verdicts"]):
                path.append(Point(record["snapshot"]["progress"], changes))
        steered = {kind.name: kind.levers for kind in AGENTS}
        if unknown := sorted(agents.keys() - steered.keys()):
            raise InputError(
                f"{file}: no agent {unknown[0]!r:.100} steers here; obey a log of this code's "
                "agents"
            )
        levers = sorted({lever for name in agents for lever in steered[name]})
        check(file, path, bounds)
        yoke = cls(bounds, levers, path)
        yoke.keeps_start = any(kind.keeps_start for kind in AGENTS if kind.name in agents)
        return yoke

    @property
    def declared(self) -> set[str]:
        """Levers and requests that may be decided."""
        return {*self.levers, *(lever for point in self.path for lever in point.changes)}

    def overdue(self, progress: float) -> bool:
        """Return whether a change of the log is due at a fraction of this run."""
        return self.passed < len(self.path) and self.path[self.passed].progress <= progress

    def cycle(self, snapshot: Snapshot) -> Cycle:
        """Return what the log decided up to the snapshot's progress, since the cycle before."""
        self.cycles += 1
        due: dict[str, float] = {}
        while self.overdue(snapshot.progress) and due.get(KEEP) != TRIED:  # its copy comes first
            due |= self.path[self.passed].changes
            self.passed += 1
        verdicts, changed = [], {}
        for lever, after in due.items():
            before, rule = snapshot.levers.get(lever, 0.0), RULE
            if lever == ROLLBACK and snapshot.kept is None:
                after, rule = before, IMPOSSIBLE
            if after != before:
                changed[lever] = after
            verdicts.append(Verdict(lever, before, after, rule, (), 0.0))
        moved = {lever: value for lever, value in changed.items() if lever in snapshot.levers}
        levers: LeverValues = {**snapshot.levers, **moved} if moved else snapshot.levers
        return Cycle(snapshot, (), (), verdicts, levers, changed)

    def rehearse(self, snapshot: Snapshot) -> None:
        """Do nothing: a cycle without agents takes no time that a rehearsal could save."""

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON, with all that the log decided."""
        path = [[point.progress, dict(point.changes)] for point in self.path]
        yoke = {"levers": list(self.levers), "path": path, "passed": self.passed}
        return super().state() | {"yoke": yoke}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned, its decisions included."""
        yoke = state["yoke"]
        super().load(state)
        self.levers, self.passed = tuple(yoke["levers"]), yoke["passed"]
        self.path = tuple(Point(progress, changes) for progress, changes in yoke["path"])


def changes_of(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the new value of each lever that the verdicts of a cycle changed."""
    changes = {each["lever"]: each["after"] for each in verdicts if each["after"] != each["before"]}
    if ROLLBACK in changes:
        changes.pop(KEEP, None)  # such a cycle copies nothing
    return changes


def check(file: Path, path: Sequence[Point], bounds: Mapping[str, Limits]) -> None:
    """Refuse decisions that this run cannot obey.

    Raises:
        InputError: a lever or value that the run does not have, or progress that runs backwards.
    """
    before = 0.0
    for progress, changes in path:
        if not before <= progress <= 1:
            raise InputError(f"{file}: progress {progress} after {before}; restore the file")
        before = progress
        for lever, value in changes.items():
            if lever not in bounds:
                raise InputError(
                    f"{file}: this run has no lever {lever!r:.100}; give it the settings of the "
                    "log's"
                )
            possible = SLOTS if lever in REQUESTS else (bounds[lever].allowed(value),)
            if lever in FIELDS:
                possible = *possible, STAGED  # as it was before a trial
            if value not in possible:
                raise InputError(
                    f"{file}: {lever} {value!s:.40} is out of this run's range; give it the "
                    "settings of the log's"
                )
