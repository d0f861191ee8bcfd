"""The agent that answers each bid with the price of the time that its change takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from settings.variants import CHOICES
from swarm.agents.base import Agent, Bid, Estimate, Offer
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings


class Slope(NamedTuple):
    """The pace agent's state: how the loss falls with the logarithm of the step.

    end: nats that the run's end would fall by with e times the steps; 0: not known.
    weight, x, y, xx, xy, yy: of the windows, the latest weighing most: sum of weights, means of
        logarithm and loss, and weighted sums of their products about the means.
    regime: what the steps computed; another one makes other losses.
    probe: steps done at the last probe; 0: windows' losses are taken.
    """

    end: float = 0.0
    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0
    regime: float = 0.0
    probe: float = 0.0


@dataclass(frozen=True)
class Pace(Agent):
    """Converts the milliseconds of a change into nats at the run's end.

    A step that takes the fraction ``d`` longer, from step N on with time for R steps, costs
    ``s ln[(N + R) / (N + R / (1 + d))]``. The slope s at the end is that of the constant rate's
    latest windows times ``progress ** curving``, shrunk to a prior in logarithms. If the iterations
    end the run, time costs nothing.

    Attributes:
        options: lever and value of ``step_ms``, from its second number on.
        iterations: most steps of the run.
        prior: slope of a run of 2,500 steps of preset sprint, in nats.
        spread: standard error of the prior's logarithm.
        curving: by which power of the steps the slope falls: preset sprint's from 6 % of its steps
            to the end.
        unknown: standard error of that power.
        memory: factor on a window's weight with each later one.
        error: standard error of a price, as a fraction of it.
    """

    name: ClassVar[str] = "pace"
    levers: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ("bar", "bar_step", "loss", "noise", "step_ms")
    sets: ClassVar[tuple[str, ...]] = ("frontier",)

    options: tuple[tuple[str, int], ...] = ()
    iterations: int = 0
    prior: float = 0.13
    spread: float = 1.0
    curving: float = 0.5
    unknown: float = 0.25
    memory: float = 0.5
    error: float = 0.2

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        if not settings.wallclock:
            return None
        chosen = ((lever, getattr(settings, setting)) for lever, setting in CHOICES.items())
        options = tuple((lever, value) for lever, values in chosen for value in values)
        return cls(options, settings.iterations) if options else None

    def start(self) -> Slope:
        return Slope()

    def propose(self, state: Slope, snapshot: Snapshot) -> tuple[Slope, Sequence[Offer]]:
        arrived, progress = snapshot.arrived, snapshot.progress
        if snapshot.nonfinite == arrived or snapshot.lr_scale < 1 or not progress:
            return state, ()  # a falling rate makes the loss fall for other reasons
        seen, levers = snapshot.signals, snapshot.levers
        step, loss, probe = snapshot.step - arrived / 2, seen["loss"], seen["bar_step"] or 0.0
        if probe:
            step, loss = probe, seen["bar"]
        end, weight, x, y, xx, xy, yy, regime, last = state
        now = levers.get("window", 0) + 1e-3 * levers.get("loops", 0)
        if now != regime or (probe > 0) != (last > 0):
            weight = x = y = xx = xy = yy = 0.0
        elif probe and probe == last:
            return state, ()
        old = self.memory * weight
        weight = old + 1
        off_x, off_y, share = math.log(step) - x, loss - y, old / weight
        x += off_x / weight
        y += off_y / weight
        xx = self.memory * xx + share * off_x * off_x
        xy = self.memory * xy + share * off_x * off_y
        yy = self.memory * yy + share * off_y * off_y
        if weight > 1 + self.memory and xy < 0:
            slope = -xy / xx
            left = max(0.0, yy + xy * slope) / weight
            error = max(left, seen["noise"] ** 2) / xx / slope**2
            end = self._end(slope, error, x - math.log(snapshot.step / progress))
        return Slope(end, weight, x, y, xx, xy, yy, now, probe), ()

    def _end(self, slope: float, error: float, ahead: float) -> float:
        """Return the slope at the run's end.

        Args:
            slope: of the latest windows, three at least.
            error: its relative variance.
            ahead: logarithm of the steps at which they lie over all steps of the run.
        """
        variance = error + (self.unknown * ahead) ** 2
        found, prior = math.log(slope) + self.curving * ahead, math.log(self.prior)
        share = self.spread**2 / (self.spread**2 + variance)
        return math.exp(share * found + (1 - share) * prior)

    def vote(self, state: Slope, snapshot: Snapshot, proposal: Offer) -> float | Estimate:
        times, progress, step = snapshot.signals["step_ms"], snapshot.progress, snapshot.step
        if type(proposal) is not Bid or not times or not 0 < step / self.iterations < progress < 1:
            return 0.0
        place, now = 1, times[0]
        for lever, value in self.options:
            if lever == proposal.lever and value == proposal.value:
                break
            place += 1
        else:
            return 0.0
        after = times[place]
        if after == now or not (now > 0 and after > 0):
            return 0.0
        left = step * (1 - progress) / progress
        price = (state.end or self.prior) * math.log((step + left) / (step + left * now / after))
        return Estimate(-price, self.error * abs(price), True)
