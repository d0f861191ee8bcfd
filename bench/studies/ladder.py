"""Measure the swarm's ladder: a fixed run, each lever by its table, all of them, agents, yoked.

    python -m bench clock ladder --ladder --out CLOCK -- --data DIR --preset frontier-sprint
    python -m bench ladder --data DIR --seeds 6 --out FILE -- --reference-clock CLOCK

A is the preset without swarm, stages and near windows: a position always sees the whole window. A'
has other schedules. Each row of B adds one lever to A by its best fixed table, and B itself those
of the preset. C is B with the agents of set frontier in place of its stages. Y obeys what C decided
at another seed. C - Y is the value of feedback, Y - A that of the levers, B - Y of tuning by hand.
What follows ``--`` goes to every run.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bench.harness.options import inline
from bench.harness.pairs import (
    CHEAP,
    FIRST_SEED,
    Options,
    Planned,
    bits,
    difference,
    ended,
    folder_of,
    make,
    mean,
    paired,
    passed_on,
    plan,
    series,
    spread_of,
    table,
)
from bench.harness.record import Commit, provenance, write_json
from bench.harness.refusals import check_series
from bench.harness.runs import Summary, remarks, sound
from files import PROJECT
from runtime import ROUNDTRIP
from settings.load import load_settings
from settings.stages import Stage
from settings.variants import Variant, reachable
from swarm.decision_log import NAME

RESULT = PROJECT / "bench" / "results" / "swarm-ladder.json"
SCORE = f"{ROUNDTRIP}, plain"
REST = ("--stages", "[]")
WHOLE = ("--near-window", "0", "--near-layers", "")
OFF = ("--no-swarm", *REST, *WHOLE)
TUNED = ("--warmdown-share", "0.65", "--muon-momentum-warmup-share", "0.12")
LEVERS = ("near", "sight", "lean", "batch", "momentum")
NAMES = ("A", "A'", *(f"B, {name}" for name in LEVERS), "B", "C")
YOKED = "Y"
COMPARED = (("C", "A"), ("C", YOKED), (YOKED, "A"), ("B", YOKED), ("C", "B"), ("B", "A"))


def main(
    *settings: str,
    data: Path,
    preset: str = "frontier-sprint",
    seeds: int = 6,
    rungs: Annotated[list[str] | None, Parameter(choices=(*NAMES, YOKED))] = None,
    runs: Path = Path("runs/ladder"),
    out: Path = RESULT,
    commit: Commit = None,
) -> int:
    """Run what is not finished, print the table; after each run its JSON is written to ``--out``.

    Args:
        settings: for train.py, after --
        data: as shards
        preset: of all runs
        seeds: runs of each, from 1337 on
        rungs: compared with A; all unless given
        runs: for run folders
        out: file for the JSON

    Returns:
        0; 1 if a run diverged; 130 or 143 if it was interrupted, with what is finished.
    """
    base = ["--data", str(data), "--preset", preset, *CHEAP, *settings]
    names = rungs or [*NAMES, YOKED]
    options = options_of(base, names)
    rounds = [plan(base, seeds, options, runs)]
    if YOKED in names:
        rounds.append(yoked(base, seeds, runs))
    check_series([run.command for planned in rounds for run in planned], out)
    command = command_of(preset, seeds, rungs, settings)
    found: dict[str, list[Summary]] = {}

    def keep() -> None:
        if found.get("A"):
            result = {"command": command, **provenance(commit)}
            result |= report(found, {**options, YOKED: ()})
            write_json(out, result)

    def work() -> None:
        for planned in rounds:  # yoked runs obey finished ones
            make(planned, found, keep)

    return ended(series(work, lambda: table(found) if found.get("A") else ""), found)


def options_of(base: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the options of A and of each rung that is named; in place of Y those of C."""
    every, obeyed = rungs_of(base), ["C"] * (YOKED in names)
    wanted = dict.fromkeys(["A", *names, *obeyed])
    return {name: every[name] for name in wanted if name != YOKED}


def command_of(
    preset: str, seeds: int, rungs: Sequence[str] | None, settings: Sequence[str]
) -> str:
    """Return the command that gives a result again."""
    command = f"python -m bench ladder --data DIR --preset {preset} --seeds {seeds}"
    command += f" --rungs {shlex.join(rungs)}" if rungs else ""
    return command + passed_on(settings)


def rungs_of(base: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the options of each rung but Y, by name.

    Args:
        base: options of all runs. Their stages give the agents' windows, their batch is halved.
    """
    half = load_settings(base).train_batch_tokens // 2
    stages = f"[{{until=0.15, lr_factor=0.71, train_batch_tokens={half}}}, {{until=1}}]"
    tables = {
        "near": ("--no-swarm", *REST),
        "sight": ("--no-swarm", *WHOLE),
        "lean": (*OFF, "--lean", "0.6"),
        "batch": (*OFF, "--stages", stages),
        "momentum": (*OFF, "--muon-cooldown-share", "0.1"),
    }
    rungs = (OFF, (*OFF, *TUNED), *(tables[name] for name in LEVERS), ("--no-swarm",), agents(base))
    return dict(zip(NAMES, rungs, strict=True))


def agents(base: Sequence[str]) -> tuple[str, ...]:
    """Return options for the agents of set frontier, with the windows of the stages they replace.

    Args:
        base: options of the run with stages.
    """
    found = {variant.window for variant in reachable(load_settings([*base, "--no-swarm"]))}
    windows = ",".join(map(str, sorted(found, key=lambda window: window or math.inf)))
    return ("--swarm", "--swarm-agents", "frontier", *REST, "--swarm-windows", windows)


def yoked(base: Sequence[str], seeds: int, runs: Path) -> list[Planned]:
    """Return runs that obey the log of C's run of the seed before, the first of the last seed."""
    planned, obeyed = [], rungs_of(base)["C"]
    for index in range(seeds):
        log = folder_of(runs, "C", FIRST_SEED + (index - 1) % seeds) / NAME
        options: Options = {YOKED: (*obeyed, "--swarm-yoke", str(log))}
        planned += plan(base, 1, options, runs, FIRST_SEED + index)
    return planned


def stages_of_rungs(base: Sequence[str]) -> list[str]:
    """Return options of a run whose stages are the variants of all rungs, for their clock."""
    runs = [load_settings([*base, *options], {}) for options in rungs_of(base).values()]
    found = list(dict.fromkeys(variant for run in runs for variant in reachable(run)))
    stages = ", ".join(
        inline(stage_of(each, round((n + 1) / len(found), 3))) for n, each in enumerate(found)
    )
    return ["--stages", f"[{stages}]"]


def stage_of(variant: Variant, until: float) -> Stage:
    """Return a stage of this variant."""
    return Stage(
        until=until,
        train_batch_tokens=variant.batch_tokens,
        train_seq_len=variant.seq_len,
        loops=variant.loops,
        window=variant.window,
        near_window=variant.near_window,
        documents=variant.documents,
        mtp_num_heads=variant.heads,
        precision=variant.precision,
    )


def report(found: Mapping[str, Sequence[Summary]], options: Options) -> dict[str, Any]:
    """Return rows by rung, and the differences that the ladder is for, paired by seeds."""
    rows = [
        {
            "name": name,
            "options": list(options[name]),
            "n": len(good),
            **remarks(runs),
            **spread_of(bits(good, SCORE)),
            "less_A": less(found, name, "A"),
            "steps": mean(good, "steps") if good else None,
        }
        for name, runs in found.items()
        for good in [sound(runs)]
    ]
    pairs = [
        {"name": f"{one} - {other}", **less(found, one, other)}
        for one, other in COMPARED
        if one in found and other in found
    ]
    return {"score": SCORE, "rows": rows, "differences": pairs}


def less(found: Mapping[str, Sequence[Summary]], one: str, other: str) -> dict[str, Any]:
    """Return the difference of two rungs at the seeds at which both have scores."""
    ours, theirs = paired(found[one], found[other])
    return difference(bits(ours, SCORE), bits(theirs, SCORE))
