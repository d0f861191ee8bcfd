"""The agent that widens the attention window over the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from errors import InputError
from swarm.agents.base import SURE, Agent, Bid, Offer, Proposal
from swarm.levers import STAGED
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings

LAST = 0.85  # fraction of the run from which on nobody asks for the price of the whole window


@dataclass(frozen=True)
class Sight(Agent):
    """Bids for a narrow window while the table says so, and for wider ones later.

    A narrow window is worth its time only, so its bid passes by the price that is saved. A wider
    one is worth what a doubling of the sight is worth at the end. Whatever the price, the last
    steps have the window of evaluation.

    Attributes:
        options: windows to choose from, as (tokens that a position sees, value of the lever).
        whole: tokens that a position of the exported network sees.
        table: (fraction of the run, fraction of ``whole`` that a position sees until then).
        doubling: nats at the end of the run by which a sight of twice the tokens is better.
        doubt: standard error of that, as a fraction of it.
        harm: standard error, in nats at the end, of what a narrow window costs early.
    """

    name: ClassVar[str] = "sight"
    levers: ClassVar[tuple[str, ...]] = ("window",)
    sets: ClassVar[tuple[str, ...]] = ("frontier",)

    options: tuple[tuple[int, int], ...] = ()
    whole: int = 2048
    table: tuple[tuple[float, float], ...] = ((0.40, 0.125), (0.70, 0.25))
    doubling: float = 0.026
    doubt: float = 0.5
    harm: float = 0.002

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        """Return it for a run with windows to choose from.

        Raises:
            InputError: the window that evaluation uses is none of them.
        """
        windows, most = settings.swarm_windows, settings.train_seq_len
        if not windows:
            return None
        if settings.window not in windows:
            raise InputError(
                f"swarm_windows has no {settings.window}, which is the window of evaluation; add it"
            )
        seen = {window: min(window or most, most) for window in windows}
        options = tuple(sorted((tokens, window) for window, tokens in seen.items()))
        return cls(options, seen[settings.window])

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Offer]]:
        wanted, held = self.whole, snapshot.levers["window"]
        for until, share in self.table:
            if snapshot.progress < until:
                wanted *= share
                break
        now = self.whole
        tokens = value = -1
        for each, option in self.options:
            if option == held:
                now = each
            if tokens < wanted:  # the narrowest that is wide enough
                tokens, value = each, option
        if tokens > now and snapshot.progress >= LAST:
            return state, (Proposal(self.name, "window", value, SURE, "as evaluated"),)
        if tokens > now:
            gain = self.doubling * math.log2(tokens / now)
            return state, (Bid(self.name, "window", value, gain, self.doubt * gain, "wider"),)
        if tokens < now and held == STAGED:
            return state, (Bid(self.name, "window", value, 0.0, self.harm, "narrow first"),)
        return state, ()
