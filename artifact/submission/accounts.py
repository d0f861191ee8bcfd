"""What makes a submission impossible: runs that differ, other code, sizes, broken accounts."""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from artifact.submission.code_size import LIMIT, budget_line
from artifact.submission.entry import DIVERGED, Entry
from artifact.submission.processes import finished
from command_line import complain
from data.inputs import Scored, open_scored
from errors import InputError
from evaluation.audit import accounting, conduct, source
from evaluation.audit.runs import VERDICTS, Check
from evaluation.score import Split
from files import PROJECT
from runtime.run_folder import ARTIFACT

TIMED = "10min"  # how the names of tracks begin that limit seconds


def check_alike(entries: Sequence[Entry]) -> None:
    """Raise InputError without runs, where one diverged, or if not just their seeds differ."""
    if not entries:
        raise InputError("name the runs to submit: python -m artifact submit RUN... --out DIR")
    for entry in entries:
        if entry.summary.diverged:
            raise InputError(f"{entry.path}: {DIVERGED}")
    seeds = [entry.seed for entry in entries]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"two runs have the same seed, of {seeds}; give one run a seed")
    first = entries[0]
    for entry in entries[1:]:
        name = first.difference(entry)
        if name:
            raise InputError(
                f"{first.path} and {entry.path} differ in {name}; a submission is one set of "
                "settings under several seeds"
            )


def check_code(entries: Sequence[Entry], script: bytes) -> None:
    """Raise InputError where the runs' code is not the script's, or too large with an artifact."""
    size, digest = len(script), hashlib.sha256(script).hexdigest()
    for entry in entries:
        if entry.summary.code_sha256 != digest:
            raise InputError(
                f"{entry.path} ran on other code ({entry.summary.code_bytes:,} bytes, now "
                f"{size:,}); submit from the commit and under the Python of its "
                "environment.json, or run it again"
            )
        artifact = entry.summary.artifact_bytes
        if size + artifact > LIMIT:
            raise InputError(f"{entry.path}: {budget_line(size, artifact)}; run it again")


def checked(entries: Sequence[Entry], data: Path | None, track: str) -> str:
    """Return the accounts of all runs as a table, a line for each check.

    Args:
        entries: the runs.
        data: folder with the validation split; by default the first run's.
        track: of the contest, whose name says whether seconds are limited.

    Raises:
        InputError: a check is broken, each in a line of its own; or the data cannot be read.
    """
    settings = entries[0].settings
    inputs = open_scored(data or settings.data, settings.tokenizer, *settings.vocabulary())
    found = [(entry, check) for entry in entries for check in accounts(entry, inputs, track)]
    refuse([f"{e.path}: {c.name}: {c.found}" for e, c in found if c.passed is False])
    return "".join(f"{check.line(f'seed {entry.seed}')}\n" for entry, check in found)


def accounts(entry: Entry, inputs: Scored, track: str) -> list[Check]:
    """Return the checks of a run that need no evaluation."""
    summary = accounting.read_summary(entry.path / ARTIFACT)
    whole = accounting.whole_split(summary, Split(inputs.validation, inputs.byte_table))
    clocks = accounting.clocks(summary) if track.startswith(TIMED) else []
    return [
        scores(entry),
        # A score of a part is one, but no submission.
        replace(whole, passed=bool(whole.passed)),
        *clocks,
        conduct.commit(entry.environment),
        conduct.conduct("run", entry.summary.observed),
        source.data(entry.summary, inputs),
        source.source(inputs),
    ]


def scores(entry: Entry) -> Check:
    """Check that the summary's scores are those that were logged, and that each adds up."""
    logged = {f"{e.get('weights')}, {e.get('method')}": e for e in entry.events("validation")}
    for name, row in entry.summary.scores.items():
        event = logged.get(name, {})
        fields = row.model_dump(include={"bpb", "nats", "tokens", "bytes", "seconds"})
        if any(event.get(field) != value for field, value in fields.items()):
            return Check("scores", "run", False, f"{name} is not what log.jsonl says")
        if fault := accounting.fault_of_row(row):
            return Check("scores", "run", False, f"{name}: {fault}")
    return Check("scores", "run", True, "as logged, and bpb of nats, tokens and bytes")


def audited(entry: Entry, data: Path | None) -> str:
    """Return the table of ``python -m evaluation audit`` on a run's artifact.

    Raises:
        InputError: a check is broken, each in a line of its own; or the audit did not end.
    """
    settings = entry.settings
    command = [sys.executable, "-m", "evaluation", "audit", str(entry.path / ARTIFACT)]
    command += ["--data", str(data or settings.data)]
    if settings.tokenizer:
        command += ["--tokenizer", str(settings.tokenizer)]
    done = finished(command, PROJECT, os.environ | {"COLUMNS": "200"})
    if done.returncode not in (0, 1) or not done.stdout:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise InputError(f"{entry.path}: its audit did not end: {last}")
    lines = done.stdout.splitlines()
    broken = VERDICTS[False]  # each in its row of the table; a line of progress begins with it
    faults = [each for each in lines if broken in each and not each.startswith(broken)]
    refuse([f"{entry.path}: {each}" for each in faults])
    if done.returncode:
        raise InputError(f"{entry.path}: its audit failed")
    return done.stdout


def refuse(faults: Sequence[str]) -> None:
    """Raise InputError for the last of some faults, and print the others, a line each."""
    for fault in faults[:-1]:
        complain(f"error: {fault}")
    if faults:
        raise InputError(faults[-1])
