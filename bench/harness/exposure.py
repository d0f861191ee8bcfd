"""What collectives cost a step: transfers that no kernel hides, and waiting for the slowest rank.

A collective ends on all ranks at once, and begins on each when it gets there. So its shortest time
over the ranks is that of the transfer, and what is beyond it on another rank is waiting.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from bench.harness.timeline import COLLECTIVE, COPY, Event, covered, step_ends, union

KIND = re.compile("AllReduce|ReduceScatter|AllGather|Broadcast")


@dataclass(frozen=True)
class Collective:
    """One collective on one rank: its kind, and microseconds: all, and without another kernel."""

    kind: str
    time: float
    alone: float


@dataclass(frozen=True)
class Seen:
    """One rank's whole steps: how many, microseconds of a step in kernels but collectives, those.

    Lists of `Collective` are in the order in which they began.
    """

    steps: int
    work: float
    collectives: list[Collective]


@dataclass(frozen=True)
class Exposure:
    """Microseconds a step of the collectives of one kind.

    Attributes:
        transfer: from when the last rank is there.
        exposed: of that, without another kernel on the last rank.
        waiting: before, in the mean over ranks.
        alone: transfer and waiting without another kernel, in the mean over ranks.
    """

    transfer: float = 0.0
    exposed: float = 0.0
    waiting: float = 0.0
    alone: float = 0.0

    def __add__(self, other: "Exposure") -> "Exposure":
        """Return the sums."""
        names = [field.name for field in fields(self)]
        return Exposure(*(getattr(self, name) + getattr(other, name) for name in names))


def seen(events: Sequence[Event]) -> Seen:
    """Return what a rank's trace of two steps or more shows; events are ordered by begin."""
    device = [event for event in events if event.on_device]
    ends = step_ends(device)
    first, last, steps = ends[0], ends[-1], len(ends) - 1
    others = union(e for e in device if COLLECTIVE not in e.name and not e.name.startswith(COPY))
    collectives = []
    for event in device:
        if COLLECTIVE in event.name and first <= event.begin < last:
            kind, time = KIND.search(event.name), event.end - event.begin
            hidden = covered(others, (event.begin, event.end))
            collectives.append(Collective(kind[0] if kind else "other", time, time - hidden))
    return Seen(steps, covered(others, (first, last)) / steps, collectives)


def exposures(ranks: Sequence[Seen]) -> dict[str, Exposure]:
    """Return the exposure by kind of collective, from every rank's trace of the same steps.

    Raises:
        ValueError: ranks had other collectives than each other.
    """
    orders = {(rank.steps, *(each.kind for each in rank.collectives)) for rank in ranks}
    if len(orders) > 1:
        raise ValueError(f"ranks had collectives of {len(orders)} orders")
    found: dict[str, Exposure] = {}
    for each in zip(*(rank.collectives for rank in ranks), strict=True):
        last = min(each, key=lambda one: one.time)
        alone = statistics.fmean(one.alone for one in each)
        waiting = statistics.fmean(one.time for one in each) - last.time
        numbers = last.time, last.alone, waiting, alone
        share = Exposure(*(number / ranks[0].steps for number in numbers))
        found[last.kind] = found.get(last.kind, Exposure()) + share
    return found
