"""Predict steps on more GPUs than there are.

Transfers are those of NCCL's own cost model, of the bytes that the table of parameters asks for.
What they leave of the step measured on two GPUs is waiting for the slowest GPU, and what else slows
a step there. It grows as the largest of as many normal draws does. The first table compares that
with four GPUs, the second has 98,304 tokens a GPU, the third batches of 786,432 in all. "By node"
is a design in which GPUs of a node share banks, whose gradients nodes then sum.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from bench.harness.links import Links
from bench.harness.scaling import Cluster, Network, One, Step, largest, steps_to_one_loss
from bench.harness.sizes import TOKENS
from settings.load import load_settings

RANKS = (8, 16, 64, 512)
BATCH = 8 * TOKENS
FIXED = 2_490  # steps of 98,304 and of 49,152 tokens, bench/results/step-variants-h100.md
# seed: the step of an H100, bench/results/parallel-h100.md; attention and entry, kernels-h100.md;
# for the embedding, what kernels hid of the reductions in parallel-h100.md. frontier: an H200's,
# bench/results/parallel-h200.md.
ONE = {
    "seed": One(58_070, FIXED, attention=1_985, embed=572),
    "frontier": One(64_880, FIXED, attention=1_000, embed=300),
}
UPDATE = 999.8 / 28.04e6  # an element, bench/results/kernels-h100.md
# Steps on one GPU and on so many: two H100s, when no bank was complete before the embedding
# (bench/results/parallel-h100.md), and four H200s (bench/results/parallel-h200.md).
FITTED = "seed", 2
MEASURED = {
    FITTED: (58_070, 59_610),
    ("seed", 4): (55_060, 57_130),
    ("frontier", 4): (64_880, 68_110),
}
COLUMNS = (
    "preset",
    "GPUs",
    "tokens",
    "step, ms",
    "of N times one GPU",
    "without waiting",
    "waiting, ms",
    "exposed, ms",
    "reductions",
    "sums",
    "gathers",
    "most exposed",
    "by node",
    "speed-up to one loss",
)


def main(*, node: int = 8, inside: float = 370.0, nic: float = 47.0, critical: float = 1e6) -> None:
    """Print the tables.

    Args:
        node: GPUs of a node
        inside: bus bandwidth in a node, GB/s
        nic: of each GPU's link to other nodes, GB/s; 400 Gb/s InfiniBand has 47
        critical: batch that takes twice the fewest steps to a loss, tokens
    """
    links = Links(node, inside, nic)
    print("\n".join(reproduced(links)))
    for tokens in (None, BATCH):
        print(f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for preset in ONE:
            for ranks in RANKS:
                batch = tokens or ranks * TOKENS
                print(f"| {' | '.join(row(preset, ranks, batch, links, critical))} |")


@cache
def spread(links: Links) -> float:
    """Return the standard deviation of GPUs' times, of the mean, that two GPUs' step asks for."""
    step, measured = MEASURED[FITTED]
    return (measured - as_measured(*FITTED, links).time) / step / largest(2)


def as_measured(preset: str, ranks: int, links: Links) -> Step:
    """Return the step of ``MEASURED``, without waiting."""
    one = ONE[preset]._replace(step=MEASURED[preset, ranks][0])
    if (preset, ranks) == FITTED:
        one = one._replace(attention=0)
    one_host = replace(links, node=ranks)
    return Cluster(ranks, one_host).step(network(preset), one, TOKENS, UPDATE)


@cache
def network(preset: str) -> Network:
    """Return what ranks exchange of a preset's network."""
    return Network.of(load_settings(["--preset", preset], {}).architecture())


def reproduced(links: Links) -> Iterator[str]:
    """Yield the lines of a table that sets the model against what was measured."""
    yield "| preset | GPUs | measured, ms | predicted, ms | measured, share | predicted, share |"
    yield "|---|---|---|---|---|---|"
    for (preset, ranks), (one, measured) in MEASURED.items():
        step = waited(as_measured(preset, ranks, links), ranks, links)
        times = f"{measured / 1e3:.2f} | {step.time / 1e3:.2f}"
        shares = f"{one / measured:.4f} | {step.work / step.time:.4f}"
        yield f"| {preset} | {ranks} | {times} | {shares} |"


def waited(step: Step, ranks: int, links: Links) -> Step:
    """Return a step with waiting."""
    return replace(step, waiting=spread(links) * largest(ranks) * step.work)


def row(preset: str, ranks: int, batch: int, links: Links, critical: float) -> list[str]:
    """Return the cells of a prediction."""

    def predicted(by_node: bool) -> Step:
        cluster = Cluster(ranks, links, by_node)
        step = cluster.step(network(preset), ONE[preset], batch / ranks, UPDATE)
        return waited(step, ranks, links)

    def share(step: Step) -> float:
        return ONE[preset].step * batch / TOKENS / ranks / step.time

    step = predicted(by_node=False)
    numbers = (step.waiting, step.exposed, step.reductions, step.sums, step.gathers)
    fewer = steps_to_one_loss(TOKENS, critical) / steps_to_one_loss(batch, critical)
    return [
        preset,
        str(ranks),
        f"{batch / 1e6:.2f} M",
        f"{step.time / 1e3:.1f}",
        f"{share(step):.3f}",
        f"{share(replace(step, waiting=0.0)):.3f}",
        *(f"{number / 1e3:.2f}" for number in numbers),
        step.most,
        f"{share(predicted(by_node=True)):.3f}",
        f"{fewer * ONE[preset].step / step.time:.1f}",
    ]
