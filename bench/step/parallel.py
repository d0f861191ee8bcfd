"""Two GPUs against one: ``python -m bench parallel``.

Steps of 98,304 tokens a GPU, on one and on all of them in turn; of the trace of some steps it says
what the ranks' collectives take and how much of that is hidden under kernels. Exits with 1 below
the bar. ``--rank`` is what torchrun starts it with.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.harness.figures import Figure, figures_table
from bench.harness.record import provenance
from bench.harness.sizes import TOKENS
from files import PROJECT

SETTLING, TIMED, TRACED = 10, 150, 8  # steps
LEAST = 0.93  # of so many times one GPU's tokens/s


def main(arguments: list[str]) -> int:
    """Measure one GPU and all, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench parallel", description=__doc__)
    parser.add_argument("--rank", type=Path, help="measure as a rank; rank 0 writes to this file")
    parser.add_argument("--gpus", type=int, default=max(2, torch.cuda.device_count()))
    parser.add_argument("--commit", help="of the code, where it is no git checkout")
    options = parser.parse_args(arguments)
    if options.rank:
        measure_rank(options.rank)
        return 0
    if torch.cuda.device_count() < options.gpus:
        found = torch.cuda.device_count()
        print(f"error: {options.gpus} GPUs are wanted, there are {found}", file=sys.stderr)
        return 2
    found = figures(measure(1), measure(options.gpus), options.gpus)
    print("\n".join(f"{name}: {value}" for name, value in provenance(options.commit).items()))
    print(figures_table(found))
    return int(any(not figure.met for figure in found))


def measure(gpus: int) -> dict[str, Any]:
    """What rank 0 of so many says."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={gpus}", "-m", "bench.step.parallel", "--rank", str(file)]
        subprocess.run(command, cwd=PROJECT, check=True)
        return json.loads(file.read_text(encoding="utf-8"))


def measure_rank(file: Path) -> None:
    """Step as one of the ranks."""
    from bench.harness.rig import Rig
    from bench.harness.timeline import timeline, traced
    from runtime.ranks import World

    world = World.start("cuda")
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), world, ["--train-batch-tokens", str(TOKENS * world.size)])
        try:
            rig.run(SETTLING)
            seconds = rig.run(TIMED) / TIMED
            trace = timeline(traced(lambda: rig.run(TRACED)))
        finally:
            rig.close()
    if world.is_main:
        numbers = vars(trace) | {"tokens": TOKENS * world.size / seconds, "seconds": seconds}
        file.write_text(json.dumps(numbers), encoding="utf-8")
    world.barrier()
    world.stop()


def figures(one: dict[str, Any], all_of_them: dict[str, Any], gpus: int) -> list[Figure]:
    """Of both."""
    share = all_of_them["tokens"] / one["tokens"] / gpus
    return [
        Figure("one GPU, step", 1e3 * one["seconds"], "ms"),
        Figure(f"{gpus} GPUs, step", 1e3 * all_of_them["seconds"], "ms"),
        Figure(f"{gpus} GPUs, tokens/s", all_of_them["tokens"] / 1e6, "M"),
        Figure(f"of {gpus} times one GPU's tokens/s", share, "", least=LEAST),
        Figure("collectives, a step", all_of_them["collectives"], "us"),
        Figure("of them hidden under kernels", all_of_them["hidden"], ""),
        Figure("reductions hidden under kernels", all_of_them["reductions_hidden"], ""),
        Figure("kernels launched outside of replays", all_of_them["launches"], "a step"),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
