"""The two pages of a submission: ``submission.json`` and ``README.md``."""

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from artifact.submission.asked import About
from artifact.submission.bundle import NOT_KEPT
from artifact.submission.code_size import LIMIT, SCRIPT
from artifact.submission.entry import Entry
from artifact.submission.verdict import MARGIN, Verdict
from settings import Settings

READABLE, AUDIT = "train_gpt_readable.py", "audit.txt"


def submission(
    entries: Sequence[Entry], verdict: Verdict, about: About, code: int, others: Sequence[Entry]
) -> dict[str, object]:
    """Return ``submission.json``; its bytes are those of the largest artifact.

    Args:
        entries: the runs.
        verdict: on them.
        about: what a person says.
        code: bytes of the script.
        others: finished runs with the same settings that are not submitted.
    """
    largest = max(entry.summary.artifact_bytes for entry in entries)
    first = entries[0]
    return {
        "name": about.name,
        "author": about.author,
        "github_id": about.github_id,
        "blurb": about.blurb,
        "date": date.today().isoformat(),
        "track": about.track,
        "val_loss": statistics.fmean(entry.score(verdict.method).nats for entry in entries),
        "val_bpb": verdict.mean,
        "val_bpb_std": None if math.isnan(verdict.spread) else verdict.spread,
        "method": verdict.method,
        "method_chosen_of": list(verdict.chosen_of),
        "against": verdict.against,
        "margin_nats": MARGIN,
        "test": verdict.test,
        "p_value": verdict.p_value,
        "bytes_code": code,
        "bytes_total": code + largest,
        "hardware": first.hardware,
        "pytorch_version": first.environment.torch,
        "seeds": [entry.seed for entry in entries],
        "seed_results": {str(entry.seed): result(entry, verdict.method) for entry in entries},
        "other_runs": {each.path.name: result(each, verdict.method) for each in others},
    }


def result(entry: Entry, method: str) -> dict[str, object]:
    """Return what one seed came to; a method that it was not scored by is None."""
    row = entry.summary.scores.get(method)
    return {
        "seed": entry.seed,
        "val_loss": row and row.nats,
        "val_bpb": row and row.bpb,
        "artifact_bytes": entry.summary.artifact_bytes,
        "steps": entry.summary.steps,
        "train_seconds": entry.summary.train_seconds,
        "eval_seconds": row and row.seconds,
    }


def readme(facts: Mapping[str, Any], entries: Sequence[Entry], verdict: Verdict) -> str:
    """Return the README of the folder."""
    rows = [
        f"| {seed} | {row['val_bpb']:.5f} | {row['val_loss']:.5f} | {row['steps']:,} | "
        f"{row['train_seconds']:.1f} | {row['eval_seconds']:.1f} | {row['artifact_bytes']:,} |"
        for seed, row in facts["seed_results"].items()
    ]
    first = entries[0]
    return "\n".join(
        [
            f"# {facts['name']}",
            "",
            *([facts["blurb"], ""] if facts["blurb"] else []),
            f"{verdict}. Code {facts['bytes_code']:,} bytes, with the largest artifact "
            f"{facts['bytes_total']:,} of {LIMIT:,}. Run on {first.hardware} with torch "
            f"{facts['pytorch_version']}.",
            "",
            "| seed | bpb | nats | steps | training s | evaluation s | artifact |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            *unsubmitted(facts["other_runs"]),
            "    pip install -r requirements.txt",
            f"    SEED={first.seed} DATA_PATH=DIR torchrun --standalone "
            f"--nproc_per_node={first.environment.world_size} {SCRIPT}",
            "",
            f"    python {SCRIPT} --evaluate artifact.bin --data DIR",
            "",
            f"`{SCRIPT}` is all the code, and its preset `submission` all the settings. "
            f"`{READABLE}` shows both and runs like it. "
            "DIR holds token shards and their tokenizer, else TOKENIZER_PATH names it. "
            f"`{AUDIT}` is the audit of the scores.",
            "",
            "## Settings that are not the defaults",
            "",
            *changed(first.settings),
            "",
        ]
    )


def unsubmitted(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a paragraph on finished runs with the same settings that are not submitted."""
    if not runs:
        return []
    said = (f"{name} (seed {row['seed']}, bpb {row['val_bpb']})" for name, row in runs.items())
    return [f"Finished runs with these settings that are not submitted: {', '.join(said)}.", ""]


def changed(settings: Settings) -> list[str]:
    """Return a line for each setting of a run that differs from its default."""
    return [
        f"- `{name}` = {getattr(settings, name)!r}"
        for name, field in Settings.model_fields.items()
        if name not in NOT_KEPT
        and getattr(settings, name) != field.get_default(call_default_factory=True)
    ]
