"""Compare several GPUs with one.

    python -m bench parallel --gpus 4
    python -m bench parallel --gpus 4 -- --preset frontier --kg-loss-weight 0

What follows ``--`` is set over preset ``sprint``. Steps have 98,304 tokens a GPU, on one GPU and
then on all. A trace of some steps shows the time of the collectives and how much of it overlaps
with kernels; traces of all ranks, what of it is transfer and what is waiting. A start ends with the
warm-up. The exit code is 1 below the target. ``--rank`` is for torchrun.
"""

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.harness.exposure import Collective, Exposure, Seen, exposures, seen
from bench.harness.figures import Figure, figures_table
from bench.harness.record import Commit, as_lines, provenance
from bench.harness.sizes import TOKENS
from errors import InputError
from files import PROJECT

SETTLING, TIMED, TRACED = 10, 150, 8  # steps
LEAST = 0.93  # of so many times one GPU's tokens/s


def main(
    *settings: str, rank: Path | None = None, gpus: int | None = None, commit: Commit = None
) -> int:
    """Measure one GPU and all, print the table.

    Args:
        settings: for train.py, after --
        rank: measure as a rank; rank 0 writes to this file
        gpus: by default all, and at least 2
    """
    if rank:
        measure_rank(rank, settings)
        return 0
    there = torch.cuda.device_count()
    gpus = gpus or max(2, there)
    if there < gpus:
        raise InputError(f"{gpus} GPUs are wanted, there are {there}")
    found = figures(measure(1, settings), measure(gpus, settings), gpus)
    print(f"settings: {shlex.join(settings) or 'preset sprint'}")
    print(as_lines(provenance(commit)))
    print(figures_table(found))
    return int(any(not figure.met for figure in found))


def measure(gpus: int, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Return rank 0's measurements with this number of GPUs."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={gpus}", "-m", "bench", "parallel", "--rank", str(file)]
        command += ["--", *settings]
        subprocess.run(command, cwd=PROJECT, check=True)
        return json.loads(file.read_text(encoding="utf-8"))


def measure_rank(file: Path, settings: Sequence[str] = ()) -> None:
    """Take steps as one of the ranks; rank 0 writes its measurements."""
    from bench.harness.rig import Rig
    from bench.harness.timeline import timeline, traced
    from runtime.ranks import World
    from runtime.startup import since_process_began

    world = World.start("cuda")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--train-batch-tokens", str(TOKENS * world.size), *settings]
        rig = Rig(Path(folder), world, options)
        start = since_process_began()
        try:
            rig.run(SETTLING)
            seconds = rig.run(TIMED) / TIMED
            events = traced(lambda: rig.run(TRACED))
        finally:
            rig.close()
    ranks = world.gathered(asdict(seen(events)))
    memory = max(world.gathered(torch.cuda.max_memory_allocated() / 2**30))
    if world.is_main:
        took = {"tokens": TOKENS * world.size / seconds, "seconds": seconds, "ranks": ranks}
        numbers = vars(timeline(events)) | took | {"start": start, "memory": memory}
        file.write_text(json.dumps(numbers), encoding="utf-8")
    world.barrier()
    world.stop()


def figures(one: dict[str, Any], all_of_them: dict[str, Any], gpus: int) -> list[Figure]:
    """Return the figures of one GPU and of all."""
    return [
        Figure("one GPU, step", 1e3 * one["seconds"], "ms"),
        Figure("one GPU, memory", one["memory"], "GiB"),
        Figure("one GPU, start", one["start"], "s"),
        Figure(f"{gpus} GPUs, step", 1e3 * all_of_them["seconds"], "ms"),
        Figure(f"{gpus} GPUs, memory of the fullest", all_of_them["memory"], "GiB"),
        Figure(f"{gpus} GPUs, start", all_of_them["start"], "s"),
        Figure(f"{gpus} GPUs, tokens/s", all_of_them["tokens"] / 1e6, "M"),
        Figure(
            f"of {gpus} times one GPU's tokens/s", share(one, all_of_them, gpus), "", least=LEAST
        ),
        Figure("collectives, a step", all_of_them["collectives"], "us"),
        Figure("of them hidden under kernels", all_of_them["hidden"], ""),
        Figure("reductions hidden under kernels", all_of_them["reductions_hidden"], ""),
        Figure("kernels launched outside of replays", all_of_them["launches"], "a step"),
        *exposed([as_seen(**rank) for rank in all_of_them["ranks"]]),
    ]


def share(one: dict[str, Any], all_of_them: dict[str, Any], gpus: int) -> float:
    """Return what all GPUs do, of so many times one's tokens/s."""
    return all_of_them["tokens"] / one["tokens"] / gpus


def as_seen(steps: int, work: float, collectives: list[dict[str, Any]]) -> Seen:
    """Return what a rank saw, from JSON."""
    return Seen(steps, work, [Collective(**each) for each in collectives])


def exposed(ranks: Sequence[Seen]) -> list[Figure]:
    """Return the figures a step of the collectives, all and by kind, and of the ranks' work."""
    kinds = exposures(ranks)
    named = {"all collectives": sum(kinds.values(), Exposure())} | kinds
    work = [rank.work for rank in ranks]
    return [
        figure
        for name, of in named.items()
        for figure in (
            Figure(f"{name}: transfer", of.transfer, "us"),
            Figure(f"{name}: exposed transfer", of.exposed, "us"),
            Figure(f"{name}: waiting for the last rank", of.waiting, "us"),
            Figure(f"{name}: alone, waiting included", of.alone, "us"),
        )
    ] + [Figure("slowest GPU's work over the mean's", max(work) / statistics.fmean(work), "")]
