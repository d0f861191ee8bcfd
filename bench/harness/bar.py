"""The result of a contest, and its targets."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """Median seconds of a contest; ``ratios`` are the peers' times over ours: above 1 we win.

    ``memory`` is the peak of bytes that a call allocates, of ours under "ours" and of each peer;
    none on a CPU. ``verdict`` compares the result with the contest's bar.
    """

    name: str
    seconds: float
    floor: float
    bytes_per_second: float
    flops_per_second: float
    peers: dict[str, float]
    memory: dict[str, int] = field(default_factory=dict)
    verdict: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's time over ours."""
        return {peer: seconds / self.seconds for peer, seconds in self.peers.items()}


@dataclass(frozen=True)
class Bar:
    """Targets of one operation at ``bench.harness.sizes``. Targets that are None are not checked.

    Attributes:
        ratios: least time of a peer over ours, by peer.
        of_floor: least fraction of the device's bandwidth or flops, as measured in the same run.
        seconds: most that ours takes.
        memory: most bytes that a call allocates.
    """

    ratios: Mapping[str, float] = field(default_factory=dict)
    of_floor: float = 0.0
    seconds: float = math.inf
    memory: float = math.inf

    def verdict(self, result: Result) -> str:
        """Return each part: met or missed, what was measured, and the bar."""
        return "; ".join(
            f"{'met' if met else 'missed'} {text}" for met, text in self._parts(result)
        )

    def _parts(self, result: Result) -> Iterator[tuple[bool, str]]:
        for peer, least in self.ratios.items():
            ratio = result.ratios.get(peer, math.nan)
            yield ratio >= least, f"{ratio:.2f}x {peer} ({least:.2f}x)"
        if self.of_floor:
            share = result.floor / result.seconds
            yield share >= self.of_floor, f"{share:.0%} of floor ({self.of_floor:.0%})"
        if self.seconds < math.inf:
            met = result.seconds <= self.seconds
            yield met, f"{1e3 * result.seconds:.2f} ms ({1e3 * self.seconds:.2f} ms)"
        if self.memory < math.inf:
            taken = result.memory.get("ours", math.nan)
            yield taken <= self.memory, f"{taken / 2**30:.2f} GiB ({self.memory / 2**30:.2f} GiB)"
