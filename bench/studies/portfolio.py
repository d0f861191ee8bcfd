"""Measure one set of constants, the swarm's or a table's, over conditions it was not tuned for.

    python -m bench portfolio --data DIR --conditions "20 s" "60 s" "half speed" --seeds 2
        --tried "long decay" "higher rate" "lower rate" --out FILE -- --reference-clock CLOCK

Conditions are other lengths, another batch, another corpus, half the speed, and a small network on
a CPU. Regret is bits per byte over the best fixed table of that condition, which is the best of a
few that are tried there. ``table`` is the preset, tuned for 150 s; ``swarm`` has agents in place
of its stages. Scores are of the weights that a run would quantise, and no artifact is made. What
follows ``--`` goes to every run but those of another preset.

A clock of ``bench clock --ladder`` has the steps of every condition but the larger batch, which
takes one of ``bench clock NAME -- --train-batch-tokens 196608``. Condition 150 s repeats rungs B
and C of ``bench ladder``. A command replaces the rows of its conditions in ``--out``, and keeps the
others.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from bench.harness.markdown import markdown
from bench.harness.pairs import (
    CHEAP,
    Planned,
    bits,
    difference,
    ended,
    make,
    paired,
    passed_on,
    plan,
    series,
    spread_of,
)
from bench.harness.record import Commit, earlier, provenance, write_json
from bench.harness.refusals import check_series
from bench.harness.runs import REMARKS, Summary, remarks, sound, unquantised_summary
from bench.studies.ladder import SCORE, agents
from errors import InputError
from files import PROJECT

RESULT = PROJECT / "bench" / "results" / "swarm-portfolio.json"
TABLE, SWARM = "table", "swarm"
FIELDS = ("condition", "n", "diverged", "best", "regret", "swarm_less_table")
WAYS = (TABLE, SWARM)
FIXED, RAW = ("--no-swarm",), "raw weights"
# Diverged runs are said by way.
SAID = [name for name in REMARKS if name != "diverged"]
# What a person would try where the constants may be wrong, each instead of one of them.
TRIED: dict[str, tuple[str, ...]] = {
    "short decay": ("--warmdown-share", "0.45"),
    "long decay": ("--warmdown-share", "0.85"),
    "no further targets": ("--mtp-num-heads", "0", "--mtp-targets", "0"),
    "higher rate": ("--matrix-lr", "0.06"),
    "lower rate": ("--matrix-lr", "0.03"),
}


class Condition(NamedTuple):
    """What is not as the constants were tuned for.

    Attributes:
        options: of train.py.
        preset: of its runs, if it is another.
        data: which data folder of the command line.
    """

    options: tuple[str, ...]
    preset: str = ""
    data: str = "data"


CONDITIONS = {
    "20 s": Condition(("--wallclock", "20")),
    "60 s": Condition(("--wallclock", "60")),
    "150 s": Condition(("--wallclock", "150")),
    # The steps of a device at half speed are those of half the time.
    "half speed": Condition(("--wallclock", "75")),
    "batch 196 k": Condition(("--wallclock", "150", "--train-batch-tokens", "196608")),
    "other corpus": Condition(("--wallclock", "150"), data="other"),
    "tiny on a CPU": Condition(("--device", "cpu"), "tiny", "small"),
}


@Parameter(name="*")
@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        seeds: runs of each, from 1337 on
        conditions: all whose data is given unless named
        tried: fixed tables, besides the table itself and its raw weights
    """

    seeds: int = 2
    conditions: Annotated[tuple[str, ...], Parameter(choices=tuple(CONDITIONS))] = ()
    tried: Annotated[tuple[str, ...], Parameter(choices=tuple(TRIED))] = tuple(TRIED)


EVERYTHING = Asked()


def main(
    *settings: str,
    data: Path,
    other: Path | None = None,
    small: Path | None = None,
    preset: str = "frontier-sprint",
    asked: Asked = EVERYTHING,
    runs: Path = Path("runs/portfolio"),
    out: Path = RESULT,
    commit: Commit = None,
) -> int:
    """Run what is not finished, print the regrets; their JSON goes to ``--out``.

    Args:
        settings: for train.py, after --
        data: as shards
        other: shards of another corpus
        small: shards for the small network
        preset: of all runs but those on a CPU
        asked: what is measured
        runs: for run folders
        out: file for the JSON

    Returns:
        0; 1 if a run diverged; 130 or 143 if it was interrupted, with what is finished.
    """
    folders = {"data": data, "other": other, "small": small}
    given = {name: folder for name, folder in folders.items() if folder}
    planned = {
        name: plan(base, asked.seeds, ways_of(base, asked.tried), runs / name.replace(" ", "-"))
        for name, base in bases_of(given, preset, asked, settings).items()
    }
    check_series([run.command for each in planned.values() for run in each], out)
    command, before = command_of(given, preset, asked, settings), earlier(out, FIELDS)
    found: dict[str, dict[str, list[Summary]]] = {}
    result: dict[str, Any] = {}

    def keep() -> None:
        about = {"command": command, **provenance(commit)}
        if rows := [row | about for row in rows_of(found, planned)]:
            result.update(joined(before, rows))
            write_json(out, result)

    def work() -> None:
        for name, of in planned.items():
            make(of, found.setdefault(name, {}), keep, way=unquantised_summary)

    def text() -> str:
        return "\n".join(text_of(result)) if result else ""

    status = series(work, text, "no condition is finished")
    return ended(status, *found.values())


def bases_of(
    given: Mapping[str, Path], preset: str, asked: Asked, settings: Sequence[str]
) -> dict[str, list[str]]:
    """Return options of all runs of each condition: of those asked for, or all that have data.

    Args:
        given: data folders by the name of their option.
        preset: of conditions without one of their own.
        asked: names the conditions, or none.
        settings: for train.py, of conditions without a preset of their own.

    Raises:
        InputError: the data of a condition that is asked for is not given.
    """
    bases = {}
    for name in asked.conditions or [n for n, each in CONDITIONS.items() if each.data in given]:
        condition = CONDITIONS[name]
        if condition.data not in given:
            raise InputError(f"--conditions {name}: give its data by --{condition.data}")
        base = ["--data", str(given[condition.data]), "--preset", condition.preset or preset]
        bases[name] = [*base, *CHEAP, *condition.options]
        bases[name] += () if condition.preset else settings
    return bases


def command_of(given: Iterable[str], preset: str, asked: Asked, settings: Sequence[str]) -> str:
    """Return the command that gives a result again, with DIR for each of the ``given`` folders."""
    command = "python -m bench portfolio" + "".join(f" --{name} DIR" for name in given)
    command += f" --preset {preset} --seeds {asked.seeds}"
    if asked.conditions:
        command += f" --conditions {shlex.join(asked.conditions)}"
    command += f" --tried {shlex.join(asked.tried)}"
    return command + passed_on(settings)


def ways_of(base: Sequence[str], tried: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return options of the table, of the swarm, and of each fixed table that is tried."""
    ways = {TABLE: FIXED, SWARM: agents(base)}
    return ways | {name: (*FIXED, *TRIED[name]) for name in tried}


def joined(before: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict:
    """Return a result of rows, and of those before whose conditions are others."""
    now = {row["condition"] for row in rows}
    rows = [*(row for row in before if row["condition"] not in now), *rows]
    regret = {way: fmean(row["regret"][way] for row in rows) for way in WAYS}
    return {"score": "exported weights, plain", "mean_regret": regret, "rows": rows}


def rows_of(
    found: Mapping[str, Mapping[str, Sequence[Summary]]], planned: Mapping[str, Sequence[Planned]]
) -> list[dict[str, Any]]:
    """Return rows of the conditions of which each way has a run; fewer would look best too soon."""
    whole = {name: {run.variant for run in runs} for name, runs in planned.items()}
    made = {name: of for name, of in found.items() if of.keys() >= whole[name]}
    return [row for name, of in made.items() if (row := row_of(name, of))["n"]]


def row_of(name: str, found: Mapping[str, Sequence[Summary]]) -> dict[str, Any]:
    """Return scores and regrets of a condition; the best fixed table there may be the given one.

    The table's runs say what their weights score without an average, too. A table that was tried is
    not the best if one of its runs diverged. Seeds at which one of ``WAYS`` did are left out;
    without others the row has only its name and ``n`` 0.
    """
    diverged = {way: len(runs) - len(sound(runs)) for way, runs in found.items()}
    compared = {way: runs for way, runs in found.items() if way in WAYS or not diverged[way]}
    pairs = dict(zip(compared, paired(*compared.values()), strict=True))
    if not pairs[TABLE]:
        return {"condition": name, "n": 0}
    scores = {way: bits(runs, SCORE) for way, runs in pairs.items()}
    scores[RAW] = bits(pairs[TABLE], "raw, plain")
    best = min((way for way in scores if way != SWARM), key=lambda way: fmean(scores[way]))
    return {
        "condition": name,
        "n": len(scores[TABLE]),
        "diverged": {way: count for way, count in diverged.items() if count},
        **{name: sum(remarks(runs).get(name, 0) for runs in found.values()) for name in SAID},
        "best": best,
        "scores": {way: spread_of(values) for way, values in scores.items()},
        "regret": {way: fmean(scores[way]) - fmean(scores[best]) for way in WAYS},
        "swarm_less_table": difference(scores[SWARM], scores[TABLE]),
    }


def text_of(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of a Markdown table."""
    heads = ("condition", "n", "best fixed", "regret of table", "regret of swarm", "p")
    rows = []
    for row in result["rows"]:
        regret, p = row["regret"], row["swarm_less_table"]["p"]
        shown = "-" if p is None else f"{p:.3f}"
        lost = "".join(f", {count} of {way} diverged" for way, count in row["diverged"].items())
        lost += "".join(f", {row[name]} {REMARKS[name]}" for name in SAID if row.get(name))
        regrets = [f"{regret[way]:.4f}" for way in WAYS]
        rows.append([row["condition"], f"{row['n']}{lost}", row["best"], *regrets, shown])
    means = [f"{result['mean_regret'][way]:.4f}" for way in WAYS]
    return markdown(heads, [*rows, ["mean", "", "", *means, ""]]).splitlines()
