"""Times of collectives over links that are not at hand, by the cost model of NCCL's tuner.

A collective takes the fastest protocol's start, its hops, and its bytes over the bus bandwidth.
Constants are of Hopper GPUs in NCCL's ``src/graph/tuning.cc`` (commit 5067397). All times are
microseconds, sizes bytes.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """One way in which NCCL sends.

    Attributes:
        start: of the collective.
        hop: to a GPU of the same node.
        across: to another node.
        fraction: of the bus bandwidth that it reaches.
        post: least time of a hop while others are sent over the network.
        most: bus bandwidth that it reaches at most, GB/s: in a node, and across nodes.
    """

    start: float
    hop: float
    across: float
    fraction: float
    post: float = 0.0
    most: tuple[float, float] = (math.inf, math.inf)


# LL, LL128, Simple.
RING = (
    Protocol(6.6, 0.6, 2.7, 0.5, post=1.0, most=(141.0, 20.4)),
    Protocol(14.0, 1.9, 4.0, 0.92, post=1.0),
    Protocol(8.4, 3.4, 14.0, 1.0, post=3.0),
)
TREE = (
    Protocol(6.8, 0.6, 5.0, 0.92 / 3.8, most=(141.0, 20.4)),
    Protocol(14.0, 1.25, 8.5, 0.92 * 15 / 16),
    Protocol(8.4, 4.0, 14.0, 0.92),
)


@dataclass(frozen=True)
class Links:
    """What connects the GPUs.

    Attributes:
        node: GPUs of a node.
        inside: bus bandwidth over NVLink, GB/s (github.com/NVIDIA/nccl-tests/issues/212).
        nic: GB/s of a GPU's own link to other nodes; the default is what 400 Gb/s InfiniBand
            reaches (github.com/NVIDIA/nccl-tests/issues/290).
    """

    node: int = 8
    inside: float = 370.0
    nic: float = 47.0

    def nodes(self, ranks: int) -> int:
        """Return how many nodes the ranks fill."""
        return math.ceil(ranks / self.node)

    def rate(self, protocol: Protocol, ranks: int) -> float:
        """Return a protocol's bus bandwidth in bytes a microsecond."""
        one = self.nodes(ranks) == 1
        bus = self.inside if one else min(self.inside, self.nic * self.node)
        return 1e3 * min(bus * protocol.fraction, protocol.most[0 if one else 1])

    def shared(self, size: float, ranks: int) -> float:
        """Return the time to reduce-scatter, or to all-gather, a buffer whose whole has ``size``.

        NCCL has rings only for this, so all ranks are hops.
        """
        return self._ring(size, ranks, rounds=1)

    def summed(self, size: float, ranks: int) -> float:
        """Return the time to all-reduce a buffer, by a ring or by trees."""
        return min(self._ring(size, ranks, rounds=2), self._tree(size, ranks))

    def _ring(self, size: float, ranks: int, rounds: int) -> float:
        if ranks == 1:
            return 0.0
        across = self.nodes(ranks) - 1
        times = []
        for protocol, tree in zip(RING, TREE, strict=True):
            inside = max(protocol.hop, protocol.post) if across else protocol.hop
            far = tree.across if self.node == 1 else protocol.across
            hops = (ranks - 1 - across) * inside + across * far
            moved = (ranks - 1) / ranks * size / self.rate(protocol, ranks)
            times.append(protocol.start + rounds * (hops + moved))
        return min(times)

    def _tree(self, size: float, ranks: int) -> float:
        if ranks == 1:
            return 0.0
        near, far = min(ranks, self.node) - 1, math.log2(self.nodes(ranks))
        return min(
            each.start + 2 * (near * each.hop + far * each.across + size / self.rate(each, ranks))
            for each in TREE
        )
