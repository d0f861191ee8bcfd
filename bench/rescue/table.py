"""The rescue table: what each arm came to with each trouble, and which share of it was rescued."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.harness.markdown import markdown
from bench.harness.pairs import difference, spread_of
from bench.rescue.runs import Outcome

CLEAN, NONE = "", "none"  # the trouble of a clean run, and what it is called
LEAST_DAMAGE = 0.003  # bpb, from which on a share of it means something
LOST, SAVED = 0.05, 0.02  # bpb over the oracle
Found = dict[tuple[str, str], dict[int, Outcome]]
"""Outcomes by trouble and arm, then by seed."""
Row = dict[str, Any]


def report(found: Found) -> dict[str, Any]:
    """Return rows of each trouble and arm, the clean runs first, and sums over the troubles.

    A run without an artifact of finite weights is dead: it scores as a network that knows nothing
    where a share is formed, is counted, and is left out of means.
    """
    rows = [row_of(found, trouble, arm) for trouble, arm in cells(found)]
    arms = dict.fromkeys(arm for _, arm in found)
    return {"rows": rows, "arms": [summed_up(rows, arm) for arm in arms if arm not in ("F0", "O")]}


def cells(found: Found) -> Iterator[tuple[str, str]]:
    """Yield each trouble with its arms; the oracle's runs may be the clean ones."""
    for trouble in dict.fromkeys(trouble for trouble, _ in found):
        arms = dict.fromkeys(arm for _, arm in found)
        for arm in arms:
            if (trouble, arm) in found:
                yield trouble, arm
        if trouble != CLEAN and (trouble, "O") not in found:
            yield trouble, "O"


def row_of(found: Found, trouble: str, arm: str) -> Row:
    """Return what an arm came to with a trouble."""
    ours, fixed = runs_of(found, trouble, arm), runs_of(found, trouble, "F0")
    alive = {seed: run["bpb"] for seed, run in ours.items() if run["bpb"] is not None}
    both = [seed for seed in alive if fixed.get(seed, {}).get("bpb") is not None]
    less = difference([alive[s] for s in both], [fixed[s]["bpb"] for s in both])
    return {
        "trouble": trouble or NONE,
        "arm": arm,
        "n": len(ours),
        **spread_of(list(alive.values())),
        "less_F0": less["mean"],
        "less_F0_sd": less["sd"],
        "p": less["p"],
        "dead": len(ours) - len(alive),
        "alarms": sum(run["alarms"] for run in ours.values()),
        "steps": round(statistics.fmean(run["steps"] for run in ours.values())),
        "seconds_to_act": seconds_to_act(ours.values()),
        **(against_oracle(found, trouble, ours) if trouble != CLEAN else {}),
    }


def against_oracle(found: Found, trouble: str, ours: Mapping[int, Outcome]) -> Row:
    """Return damage, share rescued, and runs lost and saved, of the seeds that all three have."""
    fixed, told = runs_of(found, trouble, "F0"), runs_of(found, trouble, "O")
    trios = [(fixed[s], ours[s], told[s]) for s in ours if s in fixed and s in told]
    if not trios:
        return {}
    nothing = uniform(found)
    scores = [tuple(score(run, nothing) for run in trio) for trio in trios]
    shares = [share for trio in scores if (share := rescued(*trio)) is not None]
    return {
        "damage": statistics.fmean(without - best for without, _, best in scores),
        "rescued": statistics.fmean(shares) if shares else None,
        "lost": sum(is_lost(run, best) for _, run, best in trios),
        "saved": sum(is_lost(f, best) and is_saved(run, best) for f, run, best in trios),
    }


def runs_of(found: Found, trouble: str, arm: str) -> Mapping[int, Outcome]:
    """Return outcomes by seed; an oracle that is told of nothing is a clean fixed run."""
    own = found.get((trouble, arm), {})
    return found.get((CLEAN, "F0"), {}) if arm == "O" and not own else own


def uniform(found: Found) -> float:
    """Return the bits per byte of a network that knows nothing."""
    every = (run["uniform"] for runs in found.values() for run in runs.values())
    return next(value for value in every if value is not None)


def score(run: Outcome, nothing: float) -> float:
    """Return bits per byte, of a dead run those of a network that knows nothing."""
    return nothing if run["bpb"] is None else run["bpb"]


def rescued(fixed: float, ours: float, told: float) -> float | None:
    """Return the share of the damage that was rescued, in [-1, 1]; None: there is next to none."""
    damage = fixed - told
    if damage <= LEAST_DAMAGE:
        return None
    return max(-1.0, min(1.0, (fixed - ours) / damage))


def is_lost(run: Outcome, told: Outcome) -> bool:
    """Return whether a run is dead, or far behind the oracle."""
    return run["bpb"] is None or (told["bpb"] is not None and run["bpb"] > told["bpb"] + LOST)


def is_saved(run: Outcome, told: Outcome) -> bool:
    """Return whether a run, in place of one that was lost, is near the oracle."""
    return None not in (run["bpb"], told["bpb"]) and run["bpb"] <= told["bpb"] + SAVED


def seconds_to_act(runs: Iterable[Outcome]) -> float | None:
    """Return the mean time from trouble to the first alarm, of runs that raised one."""
    times = [
        (run["acted"] - run["struck"]) * run["step_ms"] / 1e3
        for run in runs
        if run["acted"] is not None
    ]
    return statistics.fmean(times) if times else None


def summed_up(rows: Sequence[Row], arm: str) -> Row:
    """Return an arm's median share, lost and saved runs, and what clean runs pay for it."""
    ours = [row for row in rows if row["arm"] == arm and row["trouble"] != NONE]
    shares = [row["rescued"] for row in ours if row.get("rescued") is not None]
    clean = next((row for row in rows if row["arm"] == arm and row["trouble"] == NONE), None)
    return {
        "arm": arm,
        "median_rescued": statistics.median(shares) if shares else None,
        "lost": sum(row.get("lost", 0) for row in ours),
        "saved": sum(row.get("saved", 0) for row in ours),
        "runs": sum(row["n"] for row in ours),
        "clean_price": clean and clean["less_F0"],
        "clean_p": clean and clean["p"],
        "false_alarms": clean and clean["alarms"],
        "clean_runs": clean and clean["n"],
    }


def text_of(result: Mapping[str, Any]) -> str:
    """Return the report as two Markdown tables."""
    columns = ("n", "mean", "sd", "less_F0", "p", "damage", "rescued", "lost", "saved", "dead")
    columns = ("trouble", "arm", *columns, "alarms", "seconds_to_act")
    sums = ("arm", "median_rescued", "lost", "saved", "runs", "clean_price", "clean_p")
    sums = (*sums, "false_alarms", "clean_runs")
    scored = f"Sealed troubles were scored {result['sealed_scorings']} times."
    return "\n".join([named(columns, result["rows"]), "", named(sums, result["arms"]), "", scored])


def named(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a Markdown table of rows; what a row lacks is a dash."""
    heads = [name.replace("_", " ") for name in columns]
    return markdown(heads, ([cell(row.get(name)) for name in columns] for row in rows))


def cell(value: object) -> str:
    """Return a value as text."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
