"""Measure a submission: its packed code, the readable copy and the artifact, in bytes.

    python -m bench submission --run RUN [--out bench/results/submission.json]

Packs the project with the run's settings as `artifact submit` does, and starts the file from ``/``
without a GPU and without the user's environment: two steps, an artifact, its score.
"""

import json
from pathlib import Path

from artifact.submission.bundle import contents, readable
from artifact.submission.entry import Entry
from artifact.submission.first_steps import first_steps
from artifact.submission.packed import pack
from bench.harness.record import Commit, check_out, provenance
from files import PROJECT, write_text

LIMIT = 120_000


def main(*, run: Path, out: Path | None = None, commit: Commit = None) -> int:
    """Print sizes as JSON; 1 if the packed code is too large.

    Args:
        run: folder of a finished run
        out: file for the JSON, besides
    """
    check_out(out)
    entry = Entry.read(run)
    script = pack(PROJECT, entry.settings)
    first_steps(script, entry.settings)
    sizes = {
        "code": len(script),
        "readable": len(readable(PROJECT, contents(PROJECT, entry.settings)).encode()),
        "artifact": entry.summary.artifact_bytes,
        "total": len(script) + entry.summary.artifact_bytes,
    }
    facts = provenance(commit)
    steps = f"{entry.summary.steps:,} steps of preset {entry.settings.preset}"
    facts["device"] += f"; the artifact is of {steps} on {entry.hardware}"
    text = json.dumps(sizes | facts, indent=2) + "\n"
    print(text, end="")
    if out:
        write_text(out, text)
    return int(len(script) > LIMIT)
