"""Measure a reference clock: what a network's steps and other work take on this device.

    python -m bench clock h100-frontier-sprint -- --preset frontier-sprint --data DIR

Variants of a step take turns on one warm device, and the median of the turns counts. ``train.py
--reference-clock FILE`` then counts these milliseconds in place of the wall clock.
"""

import statistics
import tempfile
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from artifact.quantisation.calibration import Calibration
from bench.harness.record import Commit, check_out, provenance, write_json
from bench.harness.rig import random_tokens
from bench.step.variants import take
from bench.studies.ladder import stages_of_rungs
from data.inputs import open_inputs
from errors import InputError
from files import PROJECT
from runtime.device import choose, device_type
from runtime.ranks import World
from settings import Settings
from settings.load import load_settings
from settings.variants import Variant
from training import choosing, probe
from training.choosing import Chooser
from training.measures import PROBES
from training.opening import described
from training.probe import Probe
from training.reference_clock import network_of, worked_with
from training.trainer import Trainer
from training.warm_up import warm_up

Way = TypeVar("Way", bound=Hashable)
SETTLING = 3  # steps of a turn besides those that are timed
UNLIMITED = 1e9  # seconds
KEEPS = 8  # copies of weights and moments that are timed


def main(
    name: str,
    /,
    *settings: str,
    ladder: bool = False,
    turns: int = 5,
    steps: int = 20,
    out: Path | None = None,
    commit: Commit = None,
) -> int:
    """Measure, write bench/results/reference-NAME.json, print the times.

    Args:
        name: of the device and the network
        settings: of train.py, after --; without --data the tokens are random, and documents long
        ladder: the variants of all rungs of ``bench ladder``, in place of the settings' stages
        turns: of each variant
        steps: timed in each turn
        out: file in place of bench/results/reference-NAME.json

    Raises:
        InputError: no turn or no step, a file that cannot be written, or settings that no run has.
    """
    path = out or PROJECT / f"bench/results/reference-{name}.json"
    check_out(path)
    for option, count in (("turns", turns), ("steps", steps)):
        if count < 1:
            raise InputError(f"--{option} {count}: give 1 or more")
    settings = (*settings, *(stages_of_rungs(settings) if ladder else ()))
    given = load_settings(settings, {})
    if given.num_edges:
        raise InputError("give --bigram-rows hash: edges take the same time, and need a file")
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(given, Path(folder))
        try:
            found = measured(trainer, turns, steps)
        finally:
            trainer.close()
    told = [each.replace(str(given.data), "DIR") if given.data else each for each in settings]
    record = provenance(commit) | {"ranks": 1, "settings": told, **found}
    write_json(path, record)
    for step in found["steps"]:
        print(f"{step['milliseconds']:10.3f} ms  {described(Variant(**step['variant']))}")
    for work, milliseconds in found["work"].items():
        print(f"{milliseconds:10.3f} ms  {work}")
    return 0


def trainer_of(settings: Settings, folder: Path) -> Trainer:
    """Return a trainer that has run its warm-up.

    Args:
        settings: of a run.
        folder: for random tokens, if the settings name no data.
    """
    world = World.single(torch.device(device_type(settings.device)))
    if settings.data:
        inputs = open_inputs(settings.data, settings.tokenizer, *settings.vocabulary(), 0)
        settings = settings.with_vocabulary(inputs.vocab_size, inputs.bos_id)
        stream = inputs.train
    else:
        stream = random_tokens(folder, settings.vocab_size)
    settings = settings.model_copy(update={"probes": settings.probes or PROBES})
    trainer = Trainer(settings, stream, world, choose(settings, world.device))
    warm_up(trainer, max(1, settings.warmup_steps))
    return trainer


def measured(trainer: Trainer, turns: int, steps: int) -> dict[str, Any]:
    """Return a table as `training.reference_clock.Table` describes it.

    Args:
        trainer: after its warm-up.
        turns: of each variant.
        steps: timed in each turn.
    """

    def taken(variant: Variant, count: int) -> float:
        return take(trainer, [variant] * count)

    times = in_turn({each: partial(taken, each) for each in trainer.variants}, turns, steps)
    found = [
        {"variant": asdict(variant), "milliseconds": statistics.median(each), "turns": each}
        for variant, each in times.items()
    ]
    work = {"keep": keep_ms(trainer, turns), **end_ms(trainer)}
    network, settings = dict(network_of(trainer.settings)), worked_with(trainer.settings)
    return {"network": network, "steps": found, "work": work, "worked_with": settings}


def in_turn(
    ways: Mapping[Way, Callable[[int], float]], turns: int, steps: int
) -> dict[Way, list[float]]:
    """Return milliseconds of a step by way and turn: how much longer a turn is with ``steps`` more.

    So what the host does before the first step and after the last does not count.

    Args:
        ways: each takes some steps, and returns their seconds.
        turns: of each way.
        steps: timed in each turn.
    """
    times: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, take_steps in ways.items():
            few = take_steps(SETTLING)
            times[way].append(1000 * (take_steps(SETTLING + steps) - few) / steps)
    return times


def keep_ms(trainer: Trainer, turns: int) -> float:
    """Return the milliseconds that a copy of weights and moments adds to a step."""
    trainer.snapshots.allocate_buffers()
    variants, added = [trainer.variants[0]] * KEEPS, []
    for _ in range(turns):
        # If each step were waited for, the host's time would count as well.
        with_copies = take(trainer, variants, trainer.snapshots.take)
        added.append((with_copies - take(trainer, variants)) / KEEPS)
    return max(0.0, 1000 * statistics.median(added))


def end_ms(trainer: Trainer) -> dict[str, float]:
    """Return the milliseconds of what a run does after its last step, once it is compiled."""
    settings = trainer.settings
    wanted = settings.calibration_tokens, settings.quant_by_loss
    calibration = Calibration(trainer.model, trainer.loader, trainer.world, *wanted)
    calibration.reserve(settings.wallclock or UNLIMITED)
    calibration.hessians()
    chooser = Chooser(trainer)
    chooser.rehearse()
    return {
        "calibration": 1000 * calibration.seconds,
        "choosing": 1000 * chooser.reserved / choosing.RESERVED,
        "probe": 1000 * Probe(trainer, {}).seconds / probe.RESERVED,
    }
