"""The agent that watches how far a step moves the matrices, in a run that begins badly."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from swarm.agents.base import SURE, Agent, Offer, Proposal
from swarm.levers import LOWEST_RATE, RESCALE, ROLLBACK, SMALLEST_STEP
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings


class Paces(NamedTuple):
    """The stride agent's state.

    ceiling: highest ``lr_fit`` at which the banks move no further than usual.
    resized: whether it has asked for smaller weights, which it does once.
    """

    ceiling: float = 1.0
    resized: bool = False


@dataclass(frozen=True)
class Stride(Agent):
    """Compares updates with weights where the loss is above that of knowing nothing.

    An orthogonalised update of an orthogonal matrix moves it by the learning rate, whatever the
    width: by 0.02 to 0.05 of its norm a step in known Muon runs. If even the bank that moves least
    moves further than ``far``, all rates are too high, and go down to where it moves by ``usual``.
    A start at ``1 / wrecked`` times those rates is taken back, too. If one bank moves far less than
    the others, its weights are too large: the run begins again with smaller ones. The ratios alone
    prove no harm, because a run may learn well at a high rate of the matrices.

    Attributes:
        nothing: nats of a network that knows nothing.
        above: nats above that from which on a window's loss is bad.
        usual: update over weight, in norms, of a known run's first steps.
        far: the same from which on the rates are too high.
        wrecked: ceiling up to which the first weights are restored, when the rates come down to it.
        large: a bank's ratio over the banks' median, below which its weights are too large.
    """

    name: ClassVar[str] = "stride"
    levers: ClassVar[tuple[str, ...]] = ("lr_fit", RESCALE, ROLLBACK)
    reads: ClassVar[tuple[str, ...]] = ("loss", "update_ratios")
    sets: ClassVar[tuple[str, ...]] = ("frontier",)

    nothing: float = math.log(1024)
    above: float = 1.0
    usual: float = 0.04
    far: float = 0.08
    wrecked: float = 0.25
    large: float = 0.1

    @classmethod
    def of(cls, settings: "Settings") -> Self:
        return cls(math.log(settings.vocab_size))

    def start(self) -> Paces:
        return Paces()

    def propose(self, state: Paces, snapshot: Snapshot) -> tuple[Paces, Sequence[Offer]]:
        ratios, fit = snapshot.signals.get("update_ratios"), snapshot.levers["lr_fit"]
        if not ratios or snapshot.nonfinite == snapshot.arrived:
            return state, ()
        least, young = min(ratios), snapshot.kept == 0
        anew = [Proposal(self.name, ROLLBACK, 1.0, SURE, "from the start")] * young
        if snapshot.signals["loss"] > self.nothing + self.above:
            if young and not state.resized and 0 < least < self.large * statistics.median(ratios):
                resize = Proposal(self.name, RESCALE, 1.0, SURE, "large weights")
                return state._replace(resized=True), [*anew, resize]
            if least > self.far:
                state = state._replace(ceiling=min(state.ceiling, fit * self.usual / least))
        if fit - max(state.ceiling, LOWEST_RATE) < SMALLEST_STEP:
            return state, ()
        lower = Proposal(self.name, "lr_fit", state.ceiling, SURE, "far steps")
        wrecked = state.ceiling <= self.wrecked and fit <= 0.5
        return state, [*anew, lower] if wrecked else [lower]
