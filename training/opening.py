"""The first lines of a run: what users look for before they wait for it."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch

from data.inputs import Inputs
from kernels.routes import routes
from model.parameters import counts
from runtime.device import OTHERS_GIB, Backends, memory_of_others, sizes_of
from settings import Settings
from settings.stages import or_one
from settings.variants import Variant, accumulation_of, stage_variants, trains_in_fp8
from training.captured_steps import Cost
from training.rank import Rank
from training.trainer import Trainer


def opening(rank: Rank, trainer: Trainer, inputs: Inputs) -> Iterator[str]:
    """Yield lines: parameters, device and backend, tokens a step, data, falls from the fast path.

    Args:
        rank: of the run.
        trainer: before its first step.
        inputs: what it reads.
    """
    settings, backends, ranks = rank.settings, rank.backends, rank.world.size
    everything, kept = counts(trainer.model)
    yield f"network   {everything:,} parameters, of which {kept:,} are exported"
    dtype = str(backends.dtype).removeprefix("torch.")
    device = f"{ranks} x {device_name(rank.world.device)}"
    yield f"device    {device}; backend {backends.backend}, attention {backends.attention}, {dtype}"
    for variant in dict.fromkeys(stage_variants(settings)):
        parts = accumulation_of(variant, settings, ranks)
        windows = variant.batch_tokens // (variant.seq_len * parts * ranks)
        yield (
            f"a step    {described(variant)}; micro-batches of {windows} windows, "
            f"{parts} x {ranks} ranks"
        )
    yield (
        f"data      {len(inputs.train):,} training tokens, {len(inputs.validation):,} of validation"
        f"; {settings.data}"
    )
    for remark in inputs.remarks:
        yield f"note      {remark}"
    yield from missed(settings, backends, rank.world.device)


def expected(settings: Settings, paces: Mapping[Variant, float]) -> str:
    """Return a line: the steps that a run will take, by the paces of its warm-up.

    Args:
        settings: of the run.
        paces: seconds of a step, by variant.
    """
    steps = expected_steps(settings, paces)
    if not settings.wallclock or not paces:
        return f"length    {steps:,} steps"
    variants = dict.fromkeys(stage_variants(settings))
    times = ", ".join(f"{1000 * paces[variant]:.1f}" for variant in variants)
    return f"length    about {steps:,} steps in {settings.wallclock:g} s, at {times} ms a step"


def expected_steps(settings: Settings, paces: Mapping[Variant, float]) -> int:
    """Return how many steps a run will take; without a clock or paces, the most."""
    if not settings.wallclock or not paces:
        return settings.iterations
    ends = [stage.until for stage in or_one(settings.stages)]
    fractions = [end - begin for begin, end in pairwise((0.0, *ends))]
    steps = sum(
        fraction * settings.wallclock / paces[variant]
        for fraction, variant in zip(fractions, stage_variants(settings), strict=True)
    )
    return min(settings.iterations, round(steps))


def captured(variant: Variant, cost: Cost) -> str:
    """Return a line: what the capture of a variant took."""
    memory = f"{cost.bytes / 2**30:.2f} GiB of graphs' memory"
    return f"captured  {described(variant)}: {cost.seconds:.1f} s, {memory}"


def described(variant: Variant) -> str:
    """Return a variant in words; fields that have their default are left out."""
    parts = [f"{variant.batch_tokens:,} tokens of windows of {variant.seq_len:,}"]
    parts += [f"{variant.loops} loops"] if variant.loops else []
    parts += [f"window {variant.window}"] if variant.window else []
    parts += [f"near window {variant.near_window}"] if variant.near_window else []
    parts += ["documents"] if variant.documents else []
    parts += [f"{variant.heads} MTP heads"] if variant.heads else []
    parts += [variant.precision] if variant.precision != "native" else []
    return ", ".join(parts)


def missed(settings: Settings, backends: Backends, device: torch.device) -> Iterator[str]:
    """Yield a line for each reason why a GPU is slower than it could be."""
    if device.type != "cuda":
        return
    if (others := memory_of_others(device)) > OTHERS_GIB:
        yield f"slower    other processes have {others:.0f} GiB of this GPU"
    if backends.backend != "kernels":
        try:
            settings.check_kernels()
        except ValueError as error:
            yield f"slower    backend {backends.backend}, because {error}"
    sizes = sizes_of(settings.architecture())
    fp8 = trains_in_fp8(settings)
    for route in routes(sizes, backends.backend, backends.attention, fp8):
        if route.missed:
            yield f"slower    {route.operation}: {route.kernel}, because {route.missed}"


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or how many threads a CPU has for a rank."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads"
