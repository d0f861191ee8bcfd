"""The open sprint's results: one row a label, in a file that later runs add to."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.record import earlier, write_json
from bench.harness.runs import remarks, sound
from errors import InputError
from files import PROJECT
from settings.load import load_settings

RESULT = PROJECT / "bench" / "results" / "open-sprint.json"
FIELDS = ("label", "settings")
PARTS = ("code", "artifact")
CLOCK = 150.0  # seconds
AVERAGED, ARTIFACT, OF_ARTIFACT = "averaged, plain", "roundtrip, plain", "roundtrip, "
# PR #1855's own script under this protocol on an H200: its artifact is over the limit.
FIELD = {
    "label": "PR #1855",
    "steps": 1410,
    "peak_memory_gib": 41.9,
    "warm_up_seconds": 400.0,
    "raw, plain": 1.1924,
    AVERAGED: 1.1854,
    ARTIFACT: 1.1883,
    "artifact_bytes": 16_170_000,
}
Row = Mapping[str, object]


def check_clock(preset: str, settings: Sequence[str]) -> None:
    """Raise InputError if the settings give a run more time than the protocol."""
    seconds = load_settings(["--preset", preset, *settings]).wallclock
    if not 0 < seconds <= CLOCK:
        raise InputError(f"--wallclock {seconds:g}: the open sprint trains {CLOCK:g} s or less")


def keep(
    path: Path, label: str, settings: Sequence[str], runs: Sequence[Row], about: Mapping[str, str]
) -> None:
    """Add a row to the result, in place of one with its label; the preset as it is comes last.

    Without a run that has scores the result stays as it is.

    Args:
        path: of the result, which may not exist yet.
        label: of the row.
        settings: on top of the preset's.
        runs: one row a seed, as ``bench.studies.sprint.rows_of`` returns them.
        about: device, versions, commit and date.

    Raises:
        InputError: the file is no such result.
    """
    if not sound(runs):
        return
    others = [row for row in earlier(path, FIELDS) if row["label"] != label]
    rows = [*others, {**summed_up(label, settings, runs), **about}]
    rows.sort(key=lambda row: not row["settings"])
    write_json(path, {**about, "rows": rows})


def summed_up(label: str, settings: Sequence[str], runs: Sequence[Row]) -> dict[str, object]:
    """Return means over the seeds that did not diverge, and the most bytes.

    The best evaluation of an artifact is the one with the least mean.
    """
    noted = {name: [run["seed"] for run in runs if run.get(name)] for name in remarks(runs)}
    runs = sound(runs)

    def mean(name: str) -> float:
        return statistics.fmean(float(str(run[name])) for run in runs)

    scores = [name for name in runs[0] if name.startswith(OF_ARTIFACT)]
    best = min(scores, key=mean)
    seconds = [run["scores"][best]["seconds"] for run in runs]  # pyright: ignore[reportIndexIssue]
    sizes = {part: max(int(str(run[f"{part}_bytes"])) for run in runs) for part in PARTS}
    return {
        "label": label,
        "settings": list(settings),
        "seeds": [run["seed"] for run in runs],
        **noted,
        "steps": round(mean("steps")),
        "ms": round(mean("step_ms"), 3),
        "averaged": mean(AVERAGED),
        "artifact": mean(ARTIFACT),
        "best": mean(best),
        "best_by": best.removeprefix(OF_ARTIFACT),
        "bytes": sizes,
        "evaluation_seconds": round(statistics.fmean(seconds), 2),
    }
