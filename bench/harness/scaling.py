"""A model of a training step on several GPUs: what they exchange, and what of that is exposed.

All times are microseconds, sizes bytes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import NamedTuple

from bench.harness.links import Links
from bench.harness.sizes import TOKENS
from kernels.optimizer.gradient_norm import CHUNK
from model.config import Architecture
from model.parameters import parameters
from training.optimizer import RULES

FP32 = 4  # bytes
STATISTICS = 3  # of a chunk of gradients, and of a bank's step


class One(NamedTuple):
    """One GPU's step of ``TOKENS`` tokens.

    Attributes:
        step: all of it.
        fixed: of that, what does not grow with the tokens.
        attention: the backward pass from where the MLP's banks are complete to the first layer's
            entry, where all are.
        embed: the rest of the backward pass.
    """

    step: float
    fixed: float
    attention: float
    embed: float


class Bank(NamedTuple):
    """Matrices of one shape; ``early``: complete before the first attention's backward pass."""

    matrices: int
    elements: int
    early: bool

    def share(self, ranks: int) -> int:
        """Return the matrices of the rank that has most."""
        return math.ceil(self.matrices / ranks)

    def size(self, ranks: int) -> int:
        """Return the bytes with equally many matrices for each rank."""
        return FP32 * self.share(ranks) * ranks * self.elements


@dataclass(frozen=True)
class Network:
    """What ranks exchange: banks in the order in which they are complete; elements of the rest."""

    banks: tuple[Bank, ...]
    rest: int

    @classmethod
    def of(cls, config: Architecture) -> "Network":
        """Return what ranks exchange, by the table of parameters."""
        specs = parameters(config)
        banks = [
            Bank(spec.shape[0], math.prod(spec.shape[1:]), spec.storage == "mlp")
            for spec in specs
            if RULES[spec.rule].axis is not None
        ]
        rest = (math.prod(spec.shape) for spec in specs if RULES[spec.rule].axis is None)
        return cls(tuple(sorted(banks, key=lambda bank: not bank.early)), sum(rest))

    def statistics(self, ranks: int) -> int:
        """Return the bytes of the gradients' statistics, which have a slot for each rank."""
        chunks = (math.ceil(bank.share(ranks) * bank.elements / CHUNK) for bank in self.banks)
        return STATISTICS * FP32 * ranks * sum(chunks)

    def spared(self, ranks: int) -> int:
        """Return the elements of banks that the rank with the most matrices does not update."""
        return sum((bank.matrices - bank.share(ranks)) * bank.elements for bank in self.banks)


@dataclass(frozen=True)
class Step:
    """A predicted step.

    Attributes:
        work: of one GPU alone, with as many tokens.
        saved: of the update, which ranks share.
        waiting: for the slowest GPU.
        reductions: of the banks' gradients, after the backward pass.
        sums: of the small gradients and the statistics.
        gathers: of the banks' new weights.
    """

    work: float
    saved: float
    waiting: float
    reductions: float
    sums: float
    gathers: float

    @property
    def exposed(self) -> float:
        """Transfers that nothing hides."""
        return self.reductions + self.sums + self.gathers

    @property
    def time(self) -> float:
        """All of it."""
        return self.work - self.saved + self.waiting + self.exposed

    @property
    def most(self) -> str:
        """Name of the longest exposed transfers."""
        return max(("reductions", "sums", "gathers"), key=lambda name: getattr(self, name))


@dataclass(frozen=True)
class Cluster:
    """GPUs, their links, and whether each node has all banks, or all GPUs together."""

    ranks: int
    links: Links
    by_node: bool = False

    @property
    def sharing(self) -> int:
        """How many ranks share a bank."""
        return min(self.ranks, self.links.node) if self.by_node else self.ranks

    def step(self, network: Network, one: One, tokens: float, update: float) -> Step:
        """Return the step of a network, without waiting.

        Args:
            tokens: a GPU.
            update: the optimizer's time an element.
        """
        more, sharing, links = tokens / TOKENS, self.sharing, self.links
        counts = network.statistics(sharing), STATISTICS * FP32 * len(network.banks)
        return Step(
            work=one.fixed + more * (one.step - one.fixed),
            saved=update * network.spared(sharing),
            waiting=0.0,
            reductions=self._reductions(network.banks, more * one.attention, more * one.embed),
            sums=links.summed(FP32 * (network.rest + 1), self.ranks)
            + sum(links.summed(count, sharing) for count in counts),
            gathers=sum(links.shared(bank.size(sharing), sharing) for bank in network.banks),
        )

    def _reductions(self, banks: Iterable[Bank], attention: float, embed: float) -> float:
        """Return how much later than the backward pass the reductions end, one after another."""
        end = 0.0
        for bank in banks:
            end = (end if bank.early else max(end, attention)) + self.reduction(bank)
        return max(0.0, end - attention - embed)

    def reduction(self, bank: Bank) -> float:
        """Return the time after which each rank has the sums of its matrices' gradients."""
        size = bank.size(self.sharing)
        time = self.links.shared(size, self.sharing)
        if self.sharing < self.ranks:
            # Ranks of the same place in their nodes, each over its own link.
            rail = replace(self.links, node=1)
            time += rail.summed(size / self.sharing, self.links.nodes(self.ranks))
        return time


def largest(draws: int) -> float:
    """Return the expected largest of normal draws, in standard deviations (Blom 1958)."""
    return NormalDist().inv_cdf((draws - 0.375) / (draws + 0.25)) if draws > 1 else 0.0


def steps_to_one_loss(tokens: float, critical: float) -> float:
    """Return the steps with this batch, as a multiple of those with an endless one.

    McCandlish et al. 2018, arXiv:1812.06162; ``critical`` in tokens, too.
    """
    return 1 + critical / tokens
