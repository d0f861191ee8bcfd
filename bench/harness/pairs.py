"""Runs of several variants with the same seeds: which to make, and a table of their differences.

Runs are compared in pairs, because seeds differ by more than variants do.
"""

import math
import os
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress
from scipy.stats import ttest_rel

from bench.harness.markdown import markdown
from bench.harness.record import Commit, provenance, write_table
from bench.harness.refusals import check_clock, check_series
from bench.harness.runs import (
    REMARKS,
    Summary,
    remarks,
    shared_by,
    sound,
    summaries_of,
    summary,
)
from command_line import INTERRUPTED
from errors import DivergedError, InputError
from settings import Settings
from settings.load import load_settings
from training.resuming import kept

FIRST_SEED = 1337
MOST_SEEDS = 100  # more would take a minute to plan, and weeks to run
Options = Mapping[str, Sequence[str]]
"""Options of train.py by variant."""
# Of runs that are compared by plain scores alone.
CHEAP = ("--eval-stride", "0", "--no-ttt-enabled", "--val-points", "0")


class Planned(NamedTuple):
    """A run of a series: its variant, its folder, and options of train.py."""

    variant: str
    folder: Path
    command: list[str]


def make(
    runs: Sequence[Planned],
    found: dict[str, list[Summary]],
    keep: Callable[[], object] = lambda: None,
    aloud: bool = False,
    way: Callable[..., Summary] = summary,
) -> None:
    """Make the runs that are planned.

    Args:
        runs: of one series.
        found: receives their summaries as they are finished.
        keep: is called after each, because a machine may end this process without a word.
        aloud: whether they print what they say.
        way: of making one in its process, as ``bench.harness.runs.summaries_of``.
    """
    with Progress() as progress:
        sharing = shared_by(run.command for run in runs)
        made = summaries_of([run[1:] for run in runs], way, aloud, sharing)
        summaries = zip(runs, made, strict=True)
        for run, of in progress.track(summaries, len(runs), description="runs"):
            found.setdefault(run.variant, []).append(of)
            said = [*([scores_line(of)] if sound([of]) else ()), *map(REMARKS.get, remarks([of]))]
            line = f"{run.folder.name}: {', '.join(said)}"
            progress.console.print(line, soft_wrap=True, highlight=False)
            keep()


def series(
    work: Callable[[], object], text: Callable[[], str], nothing: str = "no run is finished"
) -> int:
    """Do the work of a series, and print what it came to.

    Args:
        work: makes the runs.
        text: returns the table of what is finished, empty if nothing is.
        nothing: is printed on stderr in place of an empty table.

    Returns:
        0, or the exit code if Ctrl-C or SIGTERM ended the work.
    """
    status = 0
    try:
        work()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except SystemExit as ended:
        status = int(ended.code or 0)
    found = text()
    print(found or nothing, file=sys.stdout if found else sys.stderr)
    return status


def passed_on(settings: Sequence[str]) -> str:
    """Return what a command has for train.py at its end, with two dashes before it."""
    return f" -- {shlex.join(settings)}" * bool(settings)


def ended(status: int, *found: Mapping[str, Sequence[Summary]]) -> int:
    """Return the exit code of a series: its status, or 1 if one of its runs diverged."""
    runs = [run for each in found for of in each.values() for run in of]
    return status or (DivergedError.code if len(sound(runs)) < len(runs) else 0)


def compare(planned: Sequence[Planned], out: Path | None, command: str, commit: Commit) -> int:
    """Make the runs, print the table of what is finished, write it after each to ``out``.

    Args:
        planned: the first one's variant is what the others are compared with.
        out: file for the table.
        command: that gives it again.
        commit: of the code, if it is no git checkout.

    Returns:
        0; 1 if a run diverged; 130 or 143 if the series was interrupted.
    """
    check_series([run.command for run in planned], out)
    found: dict[str, list[Summary]] = {}

    def text() -> str:
        return table(found) if found.get(planned[0].variant) else ""

    def keep() -> None:
        if out and (made := text()):
            write_table(out, command, provenance(commit), made)

    return ended(series(lambda: make(planned, found, keep), text), found)


def plan(
    base: Sequence[str], seeds: int, variants: Options, runs: Path, first_seed: int = FIRST_SEED
) -> list[Planned]:
    """Return the runs of a series, seed by seed: a stop leaves whole rounds.

    A variant is left out if it is the same run as the first, because ``base`` has the same.

    Args:
        base: options of all.
        seeds: runs of each, from ``first_seed`` on.
        variants: the first is what the others are compared with.
        runs: for run folders.

    Raises:
        InputError: as ``check_seeds``; settings that no run can have, a reference clock without
            their steps, or a folder that holds a run of other ones, or would hold two variants'.
    """
    check_seeds(seeds)
    check_names(variants)
    planned = []
    for seed in range(first_seed, first_seed + seeds):
        first = None
        for name, options in variants.items():
            command = [*base, "--seed", str(seed), *options]
            settings = load_settings(command)
            if settings == first:
                continue
            first = first or settings
            check_clock(settings)
            folder = folder_of(runs, name, seed)
            check(folder, settings)
            planned.append(Planned(name, folder, command))
    return planned


def check_seeds(count: int) -> None:
    """Raise InputError for a number of seeds that no series can have."""
    if not 1 <= count <= MOST_SEEDS:
        raise InputError(f"--seeds {count}: choose 1 to {MOST_SEEDS} runs of each")


def check_names(names: Iterable[str]) -> None:
    """Raise InputError for a name that leaves the runs' folder, and for two with one folder.

    The second of two would get the first's run.
    """
    taken: dict[str, str] = {}
    for name in names:
        folder = os.path.normpath(folder_of(Path(), name, 0))
        if Path(folder).is_absolute() or folder.startswith(os.pardir):
            raise InputError(f"{name!r} leaves the runs' folder; rename it")
        other = taken.setdefault(folder, name)
        if other != name:
            raise InputError(f"{other!r} and {name!r} have the same run folder; rename one")


def folder_of(runs: Path, name: str, seed: int) -> Path:
    """Return the folder of a variant's run."""
    return runs / f"{name.replace(' ', '-')}-{seed}"


def check(folder: Path, settings: Settings) -> None:
    """Refuse a folder that holds anything but a run of these settings."""
    path = folder / "settings.toml"
    if not folder.exists():
        return
    named = zip(("vocab_size", "bos_id"), settings.vocabulary(), strict=True)
    by_tokenizer = {name: None for name, value in named if value is None}
    if not path.is_file() or (
        {**kept(load_settings(["--config", str(path)], {})), **by_tokenizer}
        != {**kept(settings), **by_tokenizer}
    ):
        raise InputError(f"{folder} holds another run; remove it, or choose other --runs")


def scores_line(of: Summary) -> str:
    """Return the scores of a run in bits per byte, as text."""
    return ", ".join(f"{name} {score['bpb']:.4f}" for name, score in of["scores"].items())


def table(found: Mapping[str, Sequence[Summary]]) -> str:
    """Return a Markdown table with one row per variant.

    A row has mean ± standard deviation over n seeds, the same of the differences from the first
    variant at equal seeds, and their p. Runs that diverged are counted, and left out of the rest.

    Args:
        found: of each variant the runs of the same seeds in the same order, some of which may lack
            at the end.
    """
    first, on = next(iter(found.items()))
    names = list(next((run["scores"] for runs in found.values() for run in sound(runs)), ()))
    heads = ["variant", "n", "steps", "ms/step"]
    heads += [head for name in names for head in (name, f"less {first}", "p")]
    rows = []
    for variant, runs in found.items():
        good = sound(runs)
        cells = [variant, counted(runs)]
        cells += [f"{mean(good, 'steps'):.0f}", f"{mean(good, 'step_ms'):.2f}"] if good else "--"
        for name in names:
            cells.append(spread(bits(good, name)))
            ours, theirs = (bits(each, name) for each in paired(runs, on))
            cells += ("-", "-") if runs is on else differing(ours, theirs)
        rows.append(cells)
    return markdown(heads, rows)


def counted(runs: Sequence[Summary]) -> str:
    """Return how many runs have scores, how many diverged, and how many other code has made."""
    said = (f"{count} {REMARKS[name]}" for name, count in remarks(runs).items())
    return ", ".join([str(len(sound(runs))), *said])


def paired(*series: Sequence[Summary]) -> list[list[Summary]]:
    """Return of each series its runs at the seeds that none lacks and at which none diverged.

    Args:
        series: runs of the same seeds in the same order.
    """
    seeds = [runs for runs in zip(*series, strict=False) if len(sound(runs)) == len(runs)]
    return [[runs[index] for runs in seeds] for index in range(len(series))]


def mean(runs: Sequence[Summary], key: str) -> float:
    """Return the mean of a number in the summaries."""
    return statistics.fmean(run[key] for run in runs)


def bits(runs: Sequence[Summary], name: str) -> list[float]:
    """Return bits per byte of each run."""
    return [run["scores"][name]["bpb"] for run in runs]


def spread(values: Sequence[float], form: str = ".4f") -> str:
    """Return mean ± standard deviation as text; one value has no deviation, and none is a dash."""
    if not values:
        return "-"
    if len(values) < 2:
        return f"{values[0]:{form}}"
    return f"{statistics.fmean(values):{form}} ± {statistics.stdev(values):.4f}"


def differing(ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, str]:
    """Return ours less theirs by pair, and p of a two-sided paired t-test of two or more."""
    if not ours:
        return "-", "-"
    less = difference(ours, theirs)
    if less["n"] < 2:
        return f"{less['mean']:+.4f}", "-"
    p = math.nan if less["p"] is None else less["p"]
    return f"{less['mean']:+.4f} ± {less['sd']:.4f}", f"{p:.3f}"


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Return n, mean, standard deviation and p of ours less theirs by pair; None where unknown."""
    less = [a - b for a, b in zip(ours, theirs, strict=True)]
    p = float(ttest_rel(ours, theirs)[1]) if len(less) > 1 else math.nan  # pyright: ignore[reportArgumentType]
    return {"n": len(less), **spread_of(less), "p": p if math.isfinite(p) else None}


def spread_of(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard deviation; None where there are too few values."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }
