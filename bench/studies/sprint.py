"""The sprint: train on one GPU by a protocol of docs/results.md, and print a row a run.

    python -m bench sprint --data DIR --label "no MTP" --seeds 1337 7 -- --mtp-num-heads 0
    python -m bench sprint --protocol open --data DIR --label "no gates" -- --no-skip-gates

What follows ``--`` goes to train.py, after ``--preset sprint``, or ``frontier-sprint`` in the open
protocol. DIR holds the sprint's corpus. The open protocol frees all but text, clock, GPU and
validation documents, and keeps a row a label in bench/results/open-sprint.json. Each GPU makes one
run after another, and finished runs are not repeated.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from bench.harness.markdown import markdown
from bench.harness.pairs import Planned, check, check_names, ended, folder_of, make, passed_on
from bench.harness.record import Commit, earlier, provenance, write_table
from bench.harness.refusals import check_series
from bench.harness.runs import REMARKS, Summary, remarks
from bench.studies.open_sprint import FIELD, FIELDS, RESULT, check_clock, keep
from errors import InputError
from settings.load import load_settings

COLUMNS = (
    ("label", "label", "{}"),
    ("seed", "seed", "{}"),
    ("steps", "steps", "{}"),
    ("ms/step", "step_ms", "{:.2f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("GiB", "peak_memory_gib", "{:.1f}"),
    ("warm-up s", "warm_up_seconds", "{:.0f}"),
    ("raw", "raw, plain", "{:.4f}"),
    ("averaged", "averaged, plain", "{:.4f}"),
    ("int6", "roundtrip, plain", "{:.4f}"),
    ("sliding", "roundtrip, sliding", "{:.4f}"),
    ("sliding s", "sliding_seconds", "{:.1f}"),
    ("TTT", "ttt", "{:.4f}"),
    ("TTT s", "ttt_seconds", "{:.1f}"),
    ("artifact", "artifact_bytes", "{:,}"),
    ("code", "code_bytes", "{:,}"),
)
# PR #1081's own script under this protocol on an H200, FlashAttention-3, seed 1337.
PUBLIC = {
    "label": "PR #1081",
    "seed": 1337,
    "steps": 1872,
    "step_ms": 80.15,
    "tokens_per_second": 1_227_000,
    "peak_memory_gib": 21.4,
    "raw, plain": 1.2603,
    "averaged, plain": 1.2669,
    "roundtrip, plain": 1.2702,
    "roundtrip, sliding": 1.2562,
    "sliding_seconds": 35.0,
    "ttt": 1.2536,
    "ttt_seconds": 62.0,
    "artifact_bytes": 14_255_187,
}
PRESETS = {"sprint": "sprint", "open": "frontier-sprint"}


def main(
    *settings: str,
    data: Path,
    label: str = "",
    seeds: Sequence[int] = (1337,),
    protocol: Literal["sprint", "open"] = "sprint",
    runs: Path = Path("runs"),
    out: Path | None = None,
    commit: Commit = None,
) -> int:
    """Run what is not finished; after each run print the table, and write it to ``--out``.

    Args:
        settings: for train.py, after --
        data: the sprint's corpus as shards
        label: what these runs are, for the table
        protocol: sprint compares with PR #1081; open compares recipes
        runs: where run folders go
        out: file for the table

    Returns:
        0; 1 if a run diverged.
    """
    is_open, preset = protocol == "open", PRESETS[protocol]
    if is_open:
        check_clock(preset, settings)
    base = ["--preset", preset, "--data", str(data), *settings]
    planned = plan(base, seeds, f"{preset}-{label}", runs)
    check_series([run.command for run in planned], out, RESULT if is_open else None)
    if is_open:
        earlier(RESULT, FIELDS)
    # The result names no path, because paths differ between machines.
    command = f"python -m bench sprint --data DIR --label {shlex.quote(label)}"
    command += f" --seeds {' '.join(map(str, seeds))}"
    command += " --protocol open" * is_open + passed_on(settings)
    found: dict[str, list[Summary]] = {}

    def report() -> None:
        (made_runs,) = found.values()
        ours = rows_of(label, seeds, made_runs)
        text = table([FIELD if is_open else PUBLIC, *ours])
        print(text, flush=True)
        about = provenance(commit)
        if is_open:
            keep(RESULT, label, settings, ours, about)
        if out:
            write_table(out, command, about, text)

    make(planned, found, report, aloud=len(seeds) == 1)
    return ended(0, found)


def plan(base: Sequence[str], seeds: Sequence[int], name: str, runs: Path) -> list[Planned]:
    """Return a run of each seed.

    Raises:
        InputError: no seed, or one twice; otherwise as ``bench.harness.pairs.check``
            and ``check_names``.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {' '.join(map(str, seeds))}: give at least one, each once")
    check_names([name])
    planned = []
    for seed in seeds:
        command, folder = [*base, "--seed", str(seed)], folder_of(runs, name, seed)
        check(folder, load_settings(command))
        planned.append(Planned(name, folder, command))
    return planned


def rows_of(label: str, seeds: Sequence[int], runs: Sequence[Summary]) -> list[Summary]:
    """Return a row of each run that was made.

    Its label says if it diverged, then without numbers, and if other code has made it.
    """
    rows = []
    for seed, run in zip(seeds, runs, strict=False):
        said = ", ".join([label, *(REMARKS[name] for name in remarks([run]))])
        scored = {"diverged": True} if run.get("diverged") else {**run, **scores_of(run["scores"])}
        rows.append({**scored, "label": said, "seed": seed})
    return rows


def scores_of(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return a run's scores by the keys of ``COLUMNS``."""
    found = {name: score["bpb"] for name, score in scores.items()}
    for name, score in scores.items():
        if name == "roundtrip, sliding":
            found["sliding_seconds"] = score["seconds"]
        if name.startswith("roundtrip, TTT"):
            found |= {"ttt": score["bpb"], "ttt_seconds": score["seconds"]}
    return found


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as a Markdown table; what a row lacks is a dash."""
    cells = (
        [form.format(row[key]) if row.get(key) is not None else "-" for _, key, form in COLUMNS]
        for row in rows
    )
    return markdown([title for title, _, _ in COLUMNS], cells)
