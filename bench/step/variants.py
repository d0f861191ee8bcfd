"""Time and memory of a step's variants, and what switching between them costs.

Captures the variants of ``STAGES`` over preset ``sprint`` in one run. Prints the time of a step of
each, what its capture took, and how long the device idles between steps of different variants.
Exits with 1 if a bar is missed.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from bench.harness.figures import Figure, figures_table, missed
from bench.harness.record import Commit, as_lines, need_gpu, provenance
from bench.harness.rig import Rig
from bench.harness.timeline import Timeline, timeline, traced
from runtime.ranks import World
from settings.variants import Variant
from training.captured_steps import Cost
from training.loop import AHEAD_ON_GPU
from training.metrics import Metrics
from training.opening import described
from training.schedule import Moment
from training.trainer import Trainer
from training.warm_up import finished

STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
SETTLING, TIMED, ROUNDS = 5, 40, 4  # steps, steps, and switches to each variant
CAPTURE_S, IDLE_US = 2.0, 100.0  # most of each variant after the first; between two steps
STAGES = (
    *("--loop-layers", "3,4,5", "--num-loops", "2", "--stages"),
    """[
        {until = 0.1, loops = 0},
        {until = 0.2, loops = 0, window = 512},
        {until = 0.3, loops = 0, documents = true},
        {until = 0.4, loops = 0, mtp_num_heads = 0},
        {until = 0.5, loops = 0, train_seq_len = 1024},
        {until = 0.6, loops = 0, train_batch_tokens = 49152},
        {until = 0.7, loops = 0, precision = "fp8"},
        {until = 1.0, loops = 2},
    ]""",
)


def main(*settings: str, commit: Commit = None) -> int:
    """Measure, print the table.

    Args:
        settings: over preset sprint, after --; with --stages they are the variants
    """
    need_gpu()
    with tempfile.TemporaryDirectory() as folder:
        options = settings if "--stages" in settings else (*STAGES, *settings)
        rig = Rig(Path(folder), World.single(torch.device("cuda")), options)
        try:
            found = measured(rig.trainer)
        finally:
            rig.close()
    print(as_lines(provenance(commit)))
    print(figures_table(found))
    return int(bool(missed(found)))


def measured(trainer: Trainer) -> list[Figure]:
    """Return the figures of a trainer whose variants are captured."""
    times = {}
    for variant in trainer.variants:
        take(trainer, [variant] * SETTLING)
        times[variant] = take(trainer, [variant] * TIMED) / TIMED
    trace = timeline(traced(lambda: take(trainer, trainer.variants * ROUNDS)))
    return figures(trainer.steps.costs, times, trace)


def take(
    trainer: Trainer, variants: Iterable[Variant], before: Callable[[], object] = lambda: None
) -> float:
    """Return the seconds of some steps, which are launched as the loop launches them.

    ``before`` is called before each.
    """
    update = trainer.update
    metrics = Metrics(update.groups, update.measures.sizes, trainer.outgoing, update.fields)
    began = finished(trainer)
    for step, variant in enumerate(variants):
        metrics.collect(AHEAD_ON_GPU)
        before()
        metrics.push(step, trainer.step(step, STEADY, variant))
    metrics.collect(0)
    return finished(trainer) - began


def figures(
    costs: dict[Variant, Cost], times: dict[Variant, float], trace: Timeline
) -> list[Figure]:
    """Return the figures of each variant, and those of a trace of switches."""
    found = []
    for number, (variant, seconds) in enumerate(times.items()):
        name, cost = described(variant), costs[variant]
        most = CAPTURE_S if number else None
        found += [
            Figure(f"{name}: step", 1e3 * seconds, "ms"),
            Figure(f"{name}: capture", cost.seconds, "s", most=most),
            Figure(f"{name}: memory added", cost.bytes / 2**30, "GiB"),
        ]
    return [
        *found,
        Figure("variants in turn: no kernel between steps, worst", max(trace.gaps), "us", IDLE_US),
        Figure("variants in turn: kernels outside of replays", trace.launches, "a step", 0.0),
        Figure("variants in turn: graphs replayed", trace.replays, "a step"),
    ]
