"""The sprint: train on one GPU by a protocol of docs/results.md, and print a row a run.

    python -m bench sprint --data DIR --label "no MTP" --seeds 1337 7 -- --mtp-num-heads 0
    python -m bench sprint --protocol open --data DIR --label "no gates" -- --no-skip-gates

What follows ``--`` goes to train.py, after ``--preset sprint``, or ``frontier-sprint`` in the open
protocol. DIR holds the sprint's corpus. The open protocol frees all but text, clock, GPU and
validation documents, and keeps a row a label in bench/results/open-sprint.json.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from bench.harness.record import Commit, provenance
from bench.studies.open_sprint import FIELD, RESULT, check_clock, keep
from files import PROJECT, write_text

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
) -> None:
    """Run every seed, print the table, write it where ``--out`` says.

    Args:
        settings: for train.py, after --
        data: the sprint's corpus as shards
        label: what these runs are, for the table
        protocol: sprint compares with PR #1081; open compares recipes
        runs: where run folders go
        out: file for the table
    """
    is_open, preset = protocol == "open", PRESETS[protocol]
    if is_open:
        check_clock(preset, settings)
    rows = [FIELD if is_open else PUBLIC]
    for seed in seeds:
        folder = runs / f"{preset}-{label.replace(' ', '-')}-{seed}"
        options = ["--data", str(data), "--run-dir", str(folder), "--seed", str(seed), *settings]
        rows.append(sprint(label, seed, folder, ["--preset", preset, *options]))
        print(table(rows), flush=True)
    if is_open:
        keep(RESULT, label, settings, rows[1:], provenance(commit))
    about = [f"{name}: {value}" for name, value in provenance(commit).items()]
    # The result names no path, because paths differ between machines.
    command = f"python -m bench sprint --data DIR --label {shlex.quote(label)}"
    command += f" --seeds {' '.join(map(str, seeds))} "
    command += "--protocol open " if is_open else ""
    command += shlex.join(("--", *settings)) if settings else ""
    if out:
        write_text(out, "\n".join([command, *about, "", table(rows), ""]))


def sprint(label: str, seed: int, folder: Path, options: Sequence[str]) -> dict[str, object]:
    """Make one run; return its row."""
    command = [sys.executable, str(PROJECT / "train.py"), *options]
    subprocess.run(command, check=True)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    scores = summary["scores"]
    return summary | {"label": label, "seed": seed} | scores_of(scores)


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
    lines = [
        "| " + " | ".join(title for title, _, _ in COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        cells = [
            form.format(row[key]) if row.get(key) is not None else "-" for _, key, form in COLUMNS
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
