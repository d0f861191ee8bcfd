"""A contest folder of finished runs: ``train_gpt.py``, logs, scores and what they are worth.

The layout is parameter-golf's: ``records/<track>/<date>_<name>/`` with ``README.md``,
``submission.json``, ``train_gpt.py`` and the logs of several seeds.
"""

import hashlib
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from scipy.stats import ttest_1samp

from artifact.submission.bundle import NOT_KEPT, contents, readable
from artifact.submission.code_size import LIMIT, SCRIPT, budget_line
from artifact.submission.first_steps import first_steps
from artifact.submission.packed import pack
from errors import InputError
from files import PROJECT
from reading.regular import open_regular
from runtime import ROUNDTRIP
from runtime.records import (
    LOG,
    REMEDY,
    SETTINGS,
    Environment,
    Row,
    Summary,
    read_environment,
    read_log,
    read_settings,
    read_summary,
)
from runtime.run_folder import ARTIFACT
from settings import Settings
from settings.load import describe

READABLE = "train_gpt_readable.py"


@dataclass(frozen=True)
class Entry:
    """A finished run, every file of it parsed."""

    path: Path
    settings: Settings
    summary: Summary
    environment: Environment

    @classmethod
    def read(cls, path: Path) -> "Entry":
        """Read a run's folder. Raises InputError for what is none, or did not finish."""
        try:
            summary, environment = read_summary(path), read_environment(path)
            settings = Settings.model_validate(read_settings(path))
        except ValidationError as error:
            raise InputError(f"{path / SETTINGS}: {describe(error)}") from None
        except InputError as error:
            raise InputError(f"{path} is no run that finished: {error}") from None
        if not any(name.startswith(ROUNDTRIP) for name in summary.scores):
            raise InputError(f"{path}: its summary has no scores of an artifact; run it again")
        artifact, log = path / ARTIFACT, path / LOG
        for file in (artifact, log):
            open_regular(file, REMEDY, links=False).close()
        if artifact.stat().st_size != summary.artifact_bytes:
            raise InputError(f"{path}: its summary is of another artifact; run it again")
        return cls(path, settings, summary, environment)

    @property
    def seed(self) -> int:
        """The seed, by which runs differ."""
        return self.settings.seed

    def score(self, method: str) -> Row:
        """Return bpb, nats and more of one of its scores."""
        return self.summary.scores[method]

    def log(self) -> bytes:
        """Return its events, a line each. Raises InputError for a log that holds anything else."""
        events = [json.dumps(event) for event in read_log(self.path / LOG)]
        return "".join(f"{event}\n" for event in events).encode()


@dataclass(frozen=True)
class Verdict:
    """What several seeds say, in bits per byte.

    Attributes:
        method: which of the runs' scores of the artifact: that with the lowest mean.
        mean, spread: over the seeds; the sample's standard deviation, NaN for one seed.
        against: the score to beat.
        p_value: of a mean no lower than ``against``, by a one-sided t-test; None where there is
            nothing to test, or a single seed.
    """

    method: str
    mean: float
    spread: float
    against: float | None
    p_value: float | None

    @classmethod
    def of(cls, entries: Sequence[Entry], against: float | None) -> "Verdict":
        """Judge runs by the best method that all have."""
        rows = [{name for name in e.summary.scores if name.startswith(ROUNDTRIP)} for e in entries]
        common = sorted(set.intersection(*rows))
        if not common:
            raise InputError("the runs have no score in common; score all of them alike")
        values = {name: [e.score(name).bpb for e in entries] for name in common}
        method = min(common, key=lambda name: statistics.fmean(values[name]))
        found, several = values[method], len(entries) > 1
        spread = statistics.stdev(found) if several else math.nan
        p_value = None
        if against is not None and several:
            _, p_value = map(float, ttest_1samp(found, against, alternative="less"))
        return cls(method, statistics.fmean(found), spread, against, p_value)

    def __str__(self) -> str:
        spread = "" if math.isnan(self.spread) else f", standard deviation {self.spread:.5f}"
        said = f"{self.mean:.5f} bits per byte in the mean ({self.method}){spread}"
        if self.against is None:
            return said
        p_value = "needs a second seed" if self.p_value is None else f"{self.p_value:.2g}"
        return f"{said}; against {self.against:.5f} p = {p_value} (one-sided t-test)"


def submit(
    runs: Sequence[Path], out: Path, against: float | None = None, name: str | None = None
) -> Verdict:
    """Write the folder ``out``, whole or not at all.

    Args:
        runs: folders of finished runs that differ in their seeds only, of this code.
        out: a folder to make.
        against: bits per byte to beat.
        name: of the submission; by default that of ``out``.

    Raises:
        InputError: the runs differ, are not of this code, or exceed the limit; ``out`` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it")
    entries = sorted(map(Entry.read, runs), key=lambda entry: entry.seed)
    check_alike(entries)
    script = pack(PROJECT, entries[0].settings)
    check_code(entries, script)
    verdict = Verdict.of(entries, against)
    first_steps(script, entries[0].settings)
    facts = submission(entries, verdict, name or out.name, len(script))
    files = {
        SCRIPT: script,
        READABLE: readable(PROJECT, contents(PROJECT, entries[0].settings)).encode(),
        "requirements.txt": (PROJECT / "requirements.txt").read_bytes(),
        "submission.json": (json.dumps(facts, indent=2) + "\n").encode(),
        "README.md": readme(facts, entries, verdict).encode(),
        **{f"train_seed{entry.seed}.jsonl": entry.log() for entry in entries},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        folder = Path(beside) / out.name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        folder.rename(out)
    return verdict


def check_alike(entries: Sequence[Entry]) -> None:
    """Raise InputError where runs differ in more than the seed, or do not differ in that."""
    seeds = [entry.seed for entry in entries]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"two runs have the same seed, of {seeds}; give one run a seed")
    first = entries[0]
    for entry in entries[1:]:
        for name in Settings.model_fields:
            same = getattr(first.settings, name) == getattr(entry.settings, name)
            if not same and name not in NOT_KEPT:
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


def submission(
    entries: Sequence[Entry], verdict: Verdict, name: str, code: int
) -> dict[str, object]:
    """Return ``submission.json``; its bytes are those of the largest artifact."""
    results = {
        str(entry.seed): {
            "val_loss": entry.score(verdict.method).nats,
            "val_bpb": entry.score(verdict.method).bpb,
            "artifact_bytes": entry.summary.artifact_bytes,
            "steps": entry.summary.steps,
            "train_seconds": entry.summary.train_seconds,
        }
        for entry in entries
    }
    largest = max(entry.summary.artifact_bytes for entry in entries)
    return {
        "name": name,
        "author": "",
        "github_id": "",
        "blurb": "",
        "date": date.today().isoformat(),
        "val_loss": statistics.fmean(entry.score(verdict.method).nats for entry in entries),
        "val_bpb": verdict.mean,
        "val_bpb_std": None if math.isnan(verdict.spread) else verdict.spread,
        "against": verdict.against,
        "p_value": verdict.p_value,
        "bytes_code": code,
        "bytes_total": code + largest,
        "seed_results": results,
    }


def readme(facts: Mapping[str, Any], entries: Sequence[Entry], verdict: Verdict) -> str:
    """Return the README of the folder."""
    rows = [
        f"| {seed} | {row['val_bpb']:.5f} | {row['val_loss']:.5f} | {row['steps']:,} | "
        f"{row['train_seconds']:.1f} | {row['artifact_bytes']:,} |"
        for seed, row in facts["seed_results"].items()
    ]
    ran_on = entries[0].environment
    return "\n".join(
        [
            f"# {facts['name']}",
            "",
            f"{verdict}. Code {facts['bytes_code']:,} bytes, with the largest artifact "
            f"{facts['bytes_total']:,} of {LIMIT:,}. Run on {ran_on.world_size} x "
            f"{ran_on.devices[0]} with torch {ran_on.torch}.",
            "",
            "| seed | bpb | nats | steps | training s | artifact |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "    pip install -r requirements.txt",
            f"    SEED={entries[0].seed} DATA_PATH=DIR torchrun --standalone "
            f"--nproc_per_node={ran_on.world_size} {SCRIPT}",
            "",
            f"    python {SCRIPT} --evaluate artifact.bin --data DIR",
            "",
            f"`{SCRIPT}` is all the code, and its preset `submission` all the settings. "
            f"`{READABLE}` shows both and runs like it. "
            "DIR holds token shards and their tokenizer, else TOKENIZER_PATH names it. "
            "The logs have an event a line.",
            "",
        ]
    )
