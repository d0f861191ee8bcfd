"""A run's swarm: telemetry in, a cycle now and then, decisions out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Self

from errors import InputError
from swarm.agents import AGENTS
from swarm.decision_log import DecisionLog
from swarm.mesh import REQUESTS, Agent, Cycle, Mesh, Rules, limits
from swarm.telemetry import LeverValues, Telemetry

if TYPE_CHECKING:
    from settings import Settings


class Steering:
    """What the loop talks to, the same on every rank but for the log.

    Args:
        agents: in the same order on every rank.
        start: values of the levers before the first decision.
        every: steps between cycles.
        rules: when a proposal passes.

    Attributes:
        levers: values now.
        kept: steps that were done when the loop last kept a copy of the state; None: it has none.
        microseconds: that each cycle took of the host's time, from telemetry to log.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        start: LeverValues,
        every: int,
        rules: Rules | None = None,
    ) -> None:
        self.mesh = Mesh(agents, limits(start), rules)
        self.levers, self.every = start, every
        self.kept: int | None = None
        self.microseconds: list[float] = []
        self._telemetry = Telemetry()
        self._log: DecisionLog | None = None
        steered = {lever for agent in agents for lever in agent.levers}
        self._steered = sorted(steered.difference(REQUESTS))

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        """The swarm of a run, or None where it is off or has no agent.

        Raises:
            InputError: ``agents_off`` names an agent that does not exist.
        """
        names = [kind.name for kind in AGENTS]
        for name in settings.agents_off:
            if name not in names:
                raise InputError(f"agents_off: no agent {name!r}; there are: {', '.join(names)}")
        on = [kind for kind in AGENTS if kind.name not in settings.agents_off]
        agents = [agent for kind in on if (agent := kind.of(settings))]
        if not settings.swarm or not agents:
            return None
        start = LeverValues(
            clip=settings.grad_clip_norm,
            kg_weight=settings.kg_loss_weight if settings.kg_scores else 0.0,
            mtp_weight=settings.mtp_loss_weight,
        )
        rules = Rules(settings.swarm_alone, settings.swarm_objection, settings.swarm_withdrawn)
        return cls(agents, start, settings.swarm_every, rules)

    @property
    def decided(self) -> dict[str, float]:
        """The levers that the agents steer, with their values; all others are the settings' own."""
        return {lever: getattr(self.levers, lever) for lever in self._steered}

    def log_to(self, path: Path) -> None:
        """Log every cycle from here on; after ``load`` in a resumed run. Rank 0 alone does.

        Raises:
            InputError: ``path`` holds something that is no decision log.
        """
        self._log = DecisionLog(path, self.mesh)

    def add(self, loss: float, gradient_norm: float, int6_error: float | None = None) -> None:
        """Take in a step that has landed.

        Args:
            loss: mean nats of the main head over the whole batch; may be NaN.
            gradient_norm: global, before the clip; may be infinite.
            int6_error: norm of the weights' int6 rounding error over the weights' norm, where it
                was measured.
        """
        self._telemetry.add(loss, gradient_norm, int6_error)

    def due(self, step: int) -> bool:
        """Whether a cycle comes before step number ``step`` (from 0)."""
        return step > 0 and step % self.every == 0

    def cycle(self, step: int, progress: float, lr_scale: float) -> Cycle:
        """Let the agents see what has arrived, and decide.

        The caller obeys: ``changed`` levers hold from the next step on, ``keep`` and ``rollback``
        are done before it. It waits for nothing.

        Args:
            step: the next one (from 0).
            progress: share of the run's budget that is spent, of wallclock or iterations.
            lr_scale: the schedule's.
        """
        began = perf_counter_ns()
        snapshot = self._telemetry.snapshot(step, progress, lr_scale, self.kept, self.levers)
        cycle = self.mesh.cycle(snapshot)
        self.levers = cycle.levers
        if cycle.keep:
            self.kept = step
        took = (perf_counter_ns() - began) / 1000
        self.microseconds.append(took)
        if self._log:
            self._log.add(self.mesh.cycles, cycle, took)
        return cycle

    def rehearse(self, step: int, progress: float, lr_scale: float) -> None:
        """Decide about what has arrived so far, as ``cycle`` will, and forget it again.

        A training loop leaves little of the caches to the agents: with what they need brought back,
        their decision takes a third of the time. For a host that would wait for its device soon
        anyway, right before the cycle.
        """
        mesh, telemetry = self.mesh, self._telemetry.state()
        # Agents never change a state, they make another: what was, is kept by its name alone.
        states, cycles, turns = list(mesh.states), mesh.cycles, dict(mesh.turns)
        mesh.cycle(self._telemetry.snapshot(step, progress, lr_scale, self.kept, self.levers))
        mesh.states, mesh.cycles, mesh.turns = states, cycles, turns
        self._telemetry.load(telemetry)

    def close(self) -> OSError | None:
        """Finish the log; returns what kept it from being written, if anything did."""
        if self._log is None:
            return None
        self._log.close()
        return self._log.error

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON holds it."""
        return {
            "mesh": self.mesh.state(),
            "telemetry": self._telemetry.state(),
            "levers": self.levers._asdict(),
            "kept": self.kept,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state`` gave, bit for bit.

        A checkpoint holds no copy to return to: where ``kept`` is not None, the caller keeps the
        state that it has just loaded.

        Raises:
            InputError: it is of other agents.
        """
        try:
            self.mesh.load(state["mesh"])
            self._telemetry.load(state["telemetry"])
            self.levers = LeverValues(**state["levers"])
            self.kept = state["kept"]
        except (KeyError, TypeError, ValueError):
            raise InputError(
                "the checkpoint's swarm has other agents; resume with the run's own agents_off"
            ) from None
