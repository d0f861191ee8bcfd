"""Measure what the swarm and its parts are worth: the sprint with all of them, and without each.

    python -m bench ablate --data DIR --seeds 3 --out FILE -- --wallclock 60

What follows ``--`` goes to train.py, after ``--preset sprint --kg-scores wordnet``. Variants
"rows by ..." need what ``python -m knowledge edges --data DIR`` writes. Each GPU has one process,
which makes one run after another, so that only its first one compiles. Finished runs are not
repeated, so an interrupted ablation continues.
"""

import shlex
from pathlib import Path
from typing import Annotated, get_args

from cyclopts import Parameter

from bench.harness.pairs import compare, passed_on, plan
from bench.harness.record import Commit
from model.config import BigramRows
from swarm.agents import AGENTS

BASE = ("--preset", "sprint", "--kg-scores", "wordnet")
SEED_AGENTS = [agent for agent in AGENTS if "seed" in agent.sets]
VARIANTS: dict[str, tuple[str, ...]] = {
    "on": (),
    "swarm off": ("--no-swarm",),
    **{f"agent {agent.name} off": ("--agents-off", agent.name) for agent in SEED_AGENTS},
    "KG init off": ("--kg-init", "0"),
    "KG loss off": ("--kg-loss-weight", "0"),
    "MTP off": ("--mtp-num-heads", "0"),
    "QAT off": ("--late-qat-threshold", "0"),
}
EDGES = {
    f"rows by {kind}": ("--bigram-rows", kind) for kind in get_args(BigramRows) if kind != "hash"
}


def main(
    *settings: str,
    data: Path,
    seeds: int = 3,
    variants: Annotated[list[str] | None, Parameter(choices=(*VARIANTS, *EDGES))] = None,
    runs: Path = Path("runs/ablate"),
    out: Path | None = None,
    commit: Commit = None,
) -> int:
    """Run what is not finished, print the table, write it where ``--out`` says.

    Args:
        settings: for train.py, after --
        data: the sprint's corpus as shards
        seeds: runs of each, from 1337 on
        variants: compared with "on"; all but those with rows by edges unless given
        runs: for run folders
        out: file for the table

    Returns:
        0; 1 if a run diverged; 130 or 143 if it was interrupted, with a table of the finished runs.
    """
    base = [*BASE, "--data", str(data), *settings]
    command = f"python -m bench ablate --data DIR --seeds {seeds}"
    command += f" --variants {shlex.join(variants)}" if variants else ""
    command += passed_on(settings)
    return compare(plan(base, seeds, options_of(variants), runs), out, command, commit)


def options_of(variants: list[str] | None) -> dict[str, tuple[str, ...]]:
    """Return options by variant, "on" first; unless some are named, all but rows by edges."""
    named = dict.fromkeys(["on", *(variants or VARIANTS)])
    return {name: (VARIANTS | EDGES)[name] for name in named}
