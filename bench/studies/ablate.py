"""Measure what the swarm and its parts are worth: the sprint with all of them, and without each.

    python -m bench ablate --data DIR --seeds 3 --out FILE -- --wallclock 60

What follows ``--`` goes to train.py, after ``--preset sprint --kg-scores wordnet``. Variants
"rows by ..." need what ``python -m knowledge edges --data DIR`` writes. Each GPU has one process,
which makes one run after another, so that only its first one compiles. Finished runs are not
repeated, so an interrupted ablation continues.
"""

import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, get_args

from cyclopts import Parameter
from rich.progress import Progress
from scipy.stats import ttest_rel

from bench.harness.record import Commit, provenance
from bench.harness.runs import Summary, summaries_of
from errors import InputError
from files import write_text
from model.config import BigramRows
from settings import Settings
from settings.load import load_settings
from swarm.agents import AGENTS

FIRST_SEED = 1337
BASE = ("--preset", "sprint", "--kg-scores", "wordnet")
VARIANTS: dict[str, tuple[str, ...]] = {
    "on": (),
    "swarm off": ("--no-swarm",),
    **{f"agent {agent.name} off": ("--agents-off", agent.name) for agent in AGENTS},
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
        0; 130 if it was interrupted, with a table of the finished runs.
    """
    found: dict[str, list[Summary]] = {}
    status = 0
    base = [*BASE, "--data", str(data), *settings]
    try:
        make(plan(base, seeds, variants or list(VARIANTS), runs), found)
    except KeyboardInterrupt:
        status = 130
    if not found.get("on"):
        print("no run is finished", file=sys.stderr)
        return status
    print(table(found))
    if out:
        command = f"python -m bench ablate --data DIR --seeds {seeds} "
        if variants:
            command += f"--variants {shlex.join(variants)} "
        command += shlex.join(("--", *settings)) if settings else ""
        about = [f"{name}: {value}" for name, value in provenance(commit).items()]
        write_text(out, "\n".join([command.strip(), *about, "", table(found), ""]))
    return status


def make(runs: Sequence[tuple[str, Path, list[str]]], found: dict[str, list[Summary]]) -> None:
    """Make the runs that are planned; their summaries go to ``found`` as they are finished."""
    with Progress() as progress:
        summaries = zip(runs, summaries_of([run[1:] for run in runs]), strict=True)
        for (name, folder, _), of in progress.track(summaries, len(runs), description="runs"):
            found.setdefault(name, []).append(of)
            line = f"{folder.name}: {scores_line(of)}"
            progress.console.print(line, soft_wrap=True, highlight=False)


def plan(
    base: Sequence[str], seeds: int, variants: Sequence[str], runs: Path
) -> list[tuple[str, Path, list[str]]]:
    """Return variant, folder and settings of each run, seed by seed: a stop leaves whole rounds.

    A variant is left out if it is the same run as "on", because ``base`` switches the same off.

    Raises:
        InputError: settings that no run can have, or a folder that holds a run of other ones.
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: it takes at least one run of each")
    planned = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        seeded = [*base, "--seed", str(seed)]
        on = load_settings(seeded)
        for name in dict.fromkeys(["on", *variants]):
            without = (VARIANTS | EDGES)[name]
            settings = load_settings([*seeded, *without])
            if without and settings == on:
                continue
            folder = runs / f"{name.replace(' ', '-')}-{seed}"
            check(folder, settings)
            planned.append((name, folder, [*seeded, *without]))
    return planned


def check(folder: Path, settings: Settings) -> None:
    """Refuse a folder that holds anything but a run of these settings."""
    kept = folder / "settings.toml"
    if not folder.exists():
        return
    if not kept.is_file() or asked(load_settings(["--config", str(kept)], {})) != asked(settings):
        raise InputError(f"{folder} holds another run; remove it, or choose other --runs")


def asked(settings: Settings) -> Mapping[str, object]:
    """Return what makes two runs the same."""
    values = settings.model_dump(exclude={"run_dir", "resume", "config"})
    return values | {"data": settings.data and settings.data.resolve()}


def scores_line(of: Summary) -> str:
    """Return the scores of a run in bits per byte, as text."""
    return ", ".join(f"{name} {score['bpb']:.4f}" for name, score in of["scores"].items())


def table(found: Mapping[str, Sequence[Summary]]) -> str:
    """Return a Markdown table with one row per variant.

    A row has mean ± standard deviation over n seeds, the same of the differences from "on" at equal
    seeds, and their p. Runs are compared in pairs, because seeds differ by more than variants do.

    Args:
        found: of each variant the runs of the same seeds in the same order, some of which may lack
            at the end.
    """
    on = found["on"]
    names = list(on[0]["scores"])
    lines = [
        "| variant | n | steps | ms/step | "
        + " | ".join(f"{n} | less on | p" for n in names)
        + " |",
        "|---" * (4 + 3 * len(names)) + "|",
    ]
    for variant, runs in found.items():
        cells = [variant, str(len(runs)), f"{mean(runs, 'steps'):.0f}"]
        cells.append(f"{mean(runs, 'step_ms'):.2f}")
        for name in names:
            ours, theirs = bits(runs, name), bits(on[: len(runs)], name)
            cells += [spread(ours), *(("-", "-") if runs is on else differing(ours, theirs))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean(runs: Sequence[Summary], key: str) -> float:
    """Return the mean of a number in the summaries."""
    return statistics.fmean(run[key] for run in runs)


def bits(runs: Sequence[Summary], name: str) -> list[float]:
    """Return bits per byte of each run."""
    return [run["scores"][name]["bpb"] for run in runs]


def spread(values: Sequence[float], form: str = ".4f") -> str:
    """Return mean ± standard deviation as text; one value has no deviation."""
    if len(values) < 2:
        return f"{values[0]:{form}}"
    return f"{statistics.fmean(values):{form}} ± {statistics.stdev(values):.4f}"


def differing(ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, str]:
    """Return ours less theirs by pair, and p of a two-sided paired t-test of two or more."""
    less = [a - b for a, b in zip(ours, theirs, strict=True)]
    if len(less) < 2:
        return spread(less, "+.4f"), "-"
    _, p = ttest_rel(ours, theirs)
    return spread(less, "+.4f"), f"{p:.3f}"
