"""The swarm of a run: telemetry in, a cycle every so many steps, decisions out."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Self

from errors import InputError
from settings.variants import CHOICES
from swarm.agents import AGENTS
from swarm.agents.base import Agent
from swarm.decision_log import DecisionLog
from swarm.levers import (
    FIELDS,
    KEEP,
    KEPT,
    LEVERS,
    REQUESTS,
    ROLLBACK,
    STAGED,
    LeverValues,
    limits,
    start_values,
)
from swarm.mesh import Cycle, Mesh, Rules
from swarm.telemetry import Numbers, Telemetry, Value

if TYPE_CHECKING:
    from settings import Settings

# Most of a run between cycles that choose what a step computes, because that follows a table of the
# run's fractions, and a lever stays for some cycles. Not reached in 1,600 steps at 80 a cycle.
MOST_BETWEEN = 0.05


class Steering:
    """The swarm as the training loop uses it; the same on every rank, except for the log.

    Args:
        mesh: what decides; its agents have the same order on every rank.
        start: values, before the first decision, of the levers that agents may change.
        every: steps between cycles.

    Raises:
        KeyError: an agent declares a lever or reads a signal that does not exist.

    Attributes:
        levers: values in force of the levers that agents may change.
        reads: names of the signals that the agents read.
        kept: steps that were done at the agents' last copy of the weights, 0 from the start of a
            run whose agents need one; None: there is no copy.
        microseconds: host time of each cycle, from telemetry to log.
    """

    def __init__(self, mesh: Mesh, start: LeverValues, every: int) -> None:
        self.mesh, self.levers, self.every = mesh, dict(start), every
        self.reads = mesh.reads
        self.kept: int | None = 0 if mesh.keeps_start else None
        self.microseconds: list[float] = []
        self._at = 0.0  # progress at the latest cycle
        self._telemetry = Telemetry(self.reads)
        self._marks = dict.fromkeys(mesh.slots, self._telemetry.mark())
        self._log: DecisionLog | None = None
        declared = mesh.declared
        if unknown := sorted(declared.difference(REQUESTS, (lever.name for lever in LEVERS))):
            raise KeyError(f"no lever {unknown[0]!r}; there are: {', '.join(mesh.bounds)}")
        steered = sorted(declared.intersection(start))
        self._numbers = [lever for lever in steered if lever not in FIELDS]
        self._choices = [lever for lever in steered if lever in FIELDS]

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        """Return the swarm of a run, or None if it is off or has no agent.

        Raises:
            InputError: as `agents_of`, or the run cannot obey ``swarm_yoke``.
        """
        start, bounds, every = start_values(settings), limits(settings), settings.swarm_every
        if settings.swarm_yoke:
            if not settings.swarm:
                raise InputError("swarm_yoke: --no-swarm obeys nothing; leave one of them out")
            from command_line import optional

            yoke = optional("swarm.yoke", "--swarm-yoke").Yoke
            return cls(yoke.of_log(settings.swarm_yoke, bounds), start, every)
        agents = agents_of(settings)
        if not settings.swarm or not agents:
            return None
        rules = Rules(settings.swarm_alone, settings.swarm_objection, settings.swarm_withdrawn)
        mesh = Mesh(agents, bounds, rules)
        if settings.swarm_trials and "bar" in mesh.reads:  # no agent of the set "seed" reads it
            from swarm.trials import Trials  # a contest's file may leave it out

            constant = 1 - settings.warmdown_share
            mesh = Trials(agents, bounds, rules, left=settings.swarm_trials, constant=constant)
        return cls(mesh, start, every)

    @property
    def decided(self) -> dict[str, float]:
        """Values of the numbers that the agents steer.

        The settings and the schedule set the others.
        """
        return {lever: self.levers[lever] for lever in self._numbers}

    @property
    def slots(self) -> tuple[float, ...]:
        """Copies of the state that the loop keeps."""
        return self.mesh.slots

    @property
    def choices(self) -> dict[str, float]:
        """Options that the agents chose, by field of a variant; the stage sets the others."""
        levers = self.levers
        return {lever: levers[lever] for lever in self._choices if levers[lever] != STAGED}

    def log_to(self, path: Path) -> None:
        """Log every cycle from now on. Only rank 0 calls it, in a resumed run after ``load``.

        Raises:
            InputError: ``path`` is a file, but no decision log.
        """
        self._log = DecisionLog(path, self.mesh)

    def add(self, loss: float, gradient_norm: float, numbers: Numbers | None = None) -> None:
        """Add the numbers of a finished step.

        Args:
            loss: mean nats of the main head over the whole batch; may be NaN.
            gradient_norm: global, before the clip; may be infinite.
            numbers: of other signals that were measured, by name; others are ignored.
        """
        self._telemetry.add(loss, gradient_norm, numbers)

    def note(self, **values: Value) -> None:
        """Set values of signals that no step measures; those that nobody reads are ignored."""
        self._telemetry.note(**values)

    def due(self, step: int, progress: float = 0.0) -> bool:
        """Return whether a cycle comes before step number ``step`` (from 0), at this progress."""
        late = bool(self._choices) and progress - self._at >= MOST_BETWEEN
        return step > 0 and (step % self.every == 0 or late or self.mesh.overdue(progress))

    def cycle(self, step: int, progress: float, lr_scale: float) -> Cycle:
        """Return what the agents decide about the current window; waits for nothing.

        The caller obeys: it copies or restores the weights before the next step, which uses the
        new values of the levers.

        Args:
            step: the next one (from 0).
            progress: spent fraction of the run's budget, of wallclock or iterations.
            lr_scale: scale of the learning rates by the warm-down, before its floor.
        """
        began = perf_counter_ns()
        snapshot = self._telemetry.snapshot(step, progress, lr_scale, self.kept, self.levers)
        cycle = self.mesh.cycle(snapshot)
        self.levers, self._at = cycle.levers, progress
        if cycle.keep:
            slot = cycle.changed[KEEP]
            self._marks[slot] = self._telemetry.mark()
            if slot == KEPT:
                self.kept = step
        elif cycle.rollback and self.mesh.keeps_start:  # set seed compares with the lost branch
            self._telemetry.back_to(self._marks[cycle.changed[ROLLBACK]])
        took = (perf_counter_ns() - began) / 1000
        self.microseconds.append(took)
        if self._log:
            self._log.add(self.mesh.cycles, cycle, took)
        return cycle

    def rehearse(self, step: int, progress: float, lr_scale: float) -> None:
        """Run a cycle and undo it, right before the real one.

        The training loop evicts the agents' data from the caches. A rehearsal loads it again, and
        the cycle then takes a third of the time. It helps a host that would otherwise wait for its
        device.
        """
        telemetry = self._telemetry.state()
        levers = self.levers
        self.mesh.rehearse(self._telemetry.snapshot(step, progress, lr_scale, self.kept, levers))
        self._telemetry.load(telemetry)

    def close(self) -> OSError | None:
        """Finish the log; return the error that ended its writing, if any."""
        if self._log is None:
            return None
        self._log.close()
        return self._log.error

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON."""
        return {
            "mesh": self.mesh.state(),
            "telemetry": self._telemetry.state(),
            "levers": self.levers,
            "kept": self.kept,
            "at": self._at,
            "marks": [*self._marks.items()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned, bit for bit.

        Raises:
            InputError: the state is of other agents or levers.
        """
        if gone := sorted(set(state.get("levers", ())) - set(self.levers)):
            raise InputError(
                f"the checkpoint's swarm has levers that this run has not: {', '.join(gone)}; "
                "resume with the run's own settings"
            )
        try:
            self.mesh.load(state["mesh"])
            self._telemetry.load(state["telemetry"])
            self.levers = {**self.levers, **state["levers"]}
            self.kept, self._at = state["kept"], state.get("at", 0.0)
            self._marks = dict.fromkeys(self.mesh.slots, self._telemetry.mark())
            self._marks |= {slot: tuple(mark) for slot, mark in state.get("marks", ())}
        except (KeyError, TypeError, ValueError):
            raise InputError(
                "the checkpoint's swarm has other agents; resume with the run's own agents_off, or "
                "with the code that wrote it"
            ) from None


def agents_of(settings: "Settings") -> list[Agent]:
    """Return the agents of a run: those of its set that are not off and have a use.

    Raises:
        InputError: ``agents_off`` names an agent that the set does not have, or no agent chooses
            from options that are given. A run that goes on keeps these.
    """
    kinds = {kind.name: kind for kind in AGENTS if settings.swarm_agents in kind.sets}
    if settings.swarm and not settings.resume:
        check_choices(settings, kinds.values())
    for name in settings.agents_off:
        if name not in kinds and not settings.resume:
            near = [*relatives(name, kinds.values()), *difflib.get_close_matches(name, kinds, n=1)]
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"agents_off: set {settings.swarm_agents} has no agent {name!r}; there are: "
                f"{', '.join(kinds)}{hint}"
            )
    on = [kind for name, kind in kinds.items() if name not in settings.agents_off]
    return [agent for kind in on if (agent := kind.of(settings))]


def check_choices(settings: "Settings", kinds: Iterable[type[Agent]]) -> None:
    """Raise InputError for options from which no agent of the set chooses."""
    levers = {lever for kind in kinds for lever in kind.levers}
    for lever, name in CHOICES.items():
        if getattr(settings, name) and lever not in levers:
            raise InputError(
                f"{name}: no agent of set {settings.swarm_agents} chooses from it; leave it out"
            )


def relatives(name: str, kinds: Iterable[type[Agent]]) -> list[str]:
    """Return the names of those agents that derive from the named one, or it from them."""
    named = [kind for kind in AGENTS if kind.name == name]
    return [
        kind.name
        for kind in kinds
        for its in named
        if issubclass(kind, its) or issubclass(its, kind)
    ]
