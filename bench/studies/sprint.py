"""The sprint: train on one GPU by the protocol of docs/results.md, and print a row a run.

    python -m bench sprint --data DIR --label "no MTP" --seeds 1337 7 -- --mtp-num-heads 0

What follows ``--`` goes to train.py, after ``--preset sprint``. DIR holds the sprint's corpus.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from bench.harness.record import provenance
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
    "artifact_bytes": 14_255_187,
}


def main(arguments: list[str]) -> int:
    """Run every seed, print the table, write it where ``--out`` says."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser().parse_args(arguments[:cut])
    rows = [PUBLIC]
    for seed in options.seeds:
        rows.append(sprint(options, seed, arguments[cut + 1 :]))
        print(table(rows), flush=True)
    about = [f"{name}: {value}" for name, value in provenance(options.commit).items()]
    # Where things lay on the machine that ran it is nobody's business, and nobody's elsewhere.
    seeds = " ".join(map(str, options.seeds))
    command = f"python -m bench sprint --data DIR --label {shlex.quote(options.label)}"
    command += f" --seeds {seeds} {shlex.join(arguments[cut:])}"
    if options.out:
        write_text(options.out, "\n".join([command, *about, "", table(rows), ""]))
    return 0


def parser() -> argparse.ArgumentParser:
    """The options before ``--``."""
    made = argparse.ArgumentParser(prog="python -m bench sprint", description=__doc__)
    made.add_argument("--data", type=Path, required=True, help="the sprint's corpus as shards")
    made.add_argument("--label", default="", help="what these runs are, for the table")
    made.add_argument("--seeds", type=int, nargs="+", default=[1337])
    made.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    made.add_argument("--out", type=Path, help="file for the table")
    made.add_argument("--commit", help="of the code, where it is no git checkout")
    return made


def sprint(options: argparse.Namespace, seed: int, overrides: list[str]) -> dict[str, object]:
    """One run; its row."""
    folder = options.runs / f"sprint-{options.label.replace(' ', '-')}-{seed}"
    command = [sys.executable, str(PROJECT / "train.py"), "--preset", "sprint"]
    command += ["--data", str(options.data), "--run-dir", str(folder), "--seed", str(seed)]
    subprocess.run([*command, *overrides], check=True)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    scores = summary["scores"]
    sliding = scores.get("roundtrip, sliding", {}).get("seconds")
    row = {"label": options.label, "seed": seed, "sliding_seconds": sliding}
    return summary | row | {name: score["bpb"] for name, score in scores.items()}


def table(rows: list[dict[str, object]]) -> str:
    """Rows as a Markdown table; what a row lacks is a dash."""
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
