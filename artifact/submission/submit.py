"""Write a contest folder from finished runs: ``train_gpt.py``, logs, scores and their test.

The layout is parameter-golf's: ``records/<track>/<date>_<name>/`` with ``README.md``,
``submission.json``, ``train_gpt.py`` and the logs of several seeds.
"""

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from scipy.stats import ttest_1samp

from artifact.submission.bundle import NOT_KEPT, bundle
from artifact.submission.code_size import LIMIT, budget_line
from errors import InputError
from files import PROJECT
from runtime import ROUNDTRIP

SCRIPT = "train_gpt.py"
FACTS = ("steps", "train_seconds", "code_bytes")  # of a summary
PLACE = ("world_size", "devices", "torch")  # of an environment


@dataclass(frozen=True)
class Entry:
    """A finished run."""

    path: Path
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Entry":
        """Read a run's folder. Raises InputError for what is none, or did not finish."""
        try:
            settings = tomllib.loads((path / "settings.toml").read_text(encoding="utf-8"))
            summary = json.loads((path / "summary.json").read_bytes())
            environment = json.loads((path / "environment.json").read_bytes())
            seed, rows, size = settings["seed"], summary["scores"], summary["artifact_bytes"]
            stored = (path / "artifact.bin").stat().st_size
            wanted = ((summary, FACTS), (environment, PLACE))
            missing = [name for table, names in wanted for name in names if name not in table]
            if missing:
                raise ValueError(f"it does not say {', '.join(missing)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no run that finished: {error}; run it again") from None
        if not isinstance(seed, int) or not any(name.startswith(ROUNDTRIP) for name in rows):
            raise InputError(f"{path}: its summary has no scores of an artifact; run it again")
        if stored != size:
            raise InputError(f"{path}: its summary is of another artifact; run it again")
        return cls(path, settings, summary, environment)

    @property
    def seed(self) -> int:
        """The seed, by which runs differ."""
        return self.settings["seed"]

    def score(self, method: str) -> Mapping[str, float]:
        """Return bpb, nats and more of one of its scores."""
        return self.summary["scores"][method]


@dataclass(frozen=True)
class Verdict:
    """The scores of several seeds in bits per byte.

    Attributes:
        method: which of the runs' scores of the artifact: that with the lowest mean.
        mean, spread: over the seeds; the sample's standard deviation, NaN for one seed.
        against: the score to beat.
        p_value: of a mean no lower than ``against``, by a one-sided t-test; None without a score to
            beat, or with a single seed.
    """

    method: str
    mean: float
    spread: float
    against: float | None
    p_value: float | None

    @classmethod
    def of(cls, entries: Sequence[Entry], against: float | None) -> "Verdict":
        """Judge runs by the best method that all have."""
        rows = [
            {name for name in e.summary["scores"] if name.startswith(ROUNDTRIP)} for e in entries
        ]
        common = sorted(set.intersection(*rows))
        if not common:
            raise InputError("the runs have no score in common; score all of them alike")
        values = {name: [e.score(name)["bpb"] for e in entries] for name in common}
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
    script = bundle(PROJECT, entries[0].settings)
    check_code(entries, script)
    verdict = Verdict.of(entries, against)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as partial:
        folder = Path(partial) / out.name
        folder.mkdir()
        (folder / SCRIPT).write_text(script, encoding="utf-8")
        check_starts(folder / SCRIPT)
        shutil.copy(PROJECT / "requirements.txt", folder)
        for entry in entries:
            shutil.copy(entry.path / "log.jsonl", folder / f"train_seed{entry.seed}.jsonl")
        facts = submission(entries, verdict, name or out.name, len(script.encode()))
        (folder / "submission.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(readme(facts, entries, verdict), encoding="utf-8")
        folder.rename(out)
    return verdict


def check_alike(entries: Sequence[Entry]) -> None:
    """Raise InputError if runs differ in more than the seed, or have equal seeds."""
    seeds = [entry.seed for entry in entries]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"two runs have the same seed, of {seeds}; give one run a seed")
    first = entries[0]
    for entry in entries[1:]:
        for name in sorted({*first.settings, *entry.settings}.difference(NOT_KEPT)):
            if first.settings.get(name) != entry.settings.get(name):
                raise InputError(
                    f"{first.path} and {entry.path} differ in {name}; a submission is one set of "
                    "settings under several seeds"
                )


def check_code(entries: Sequence[Entry], script: str) -> None:
    """Raise InputError if the runs' code is not the script's, or too large with an artifact."""
    size = len(script.encode())
    for entry in entries:
        for name, ran in (entry.summary.get("code_files") or {}).items():
            place = PROJECT / name
            now = size if name == SCRIPT else place.stat().st_size if place.is_file() else 0
            if now != ran and not name.startswith("presets/"):
                raise InputError(
                    f"{entry.path} ran on another {name} ({ran:,} bytes, now {now:,}); submit from "
                    "the commit in its environment.json, or run it again"
                )
        artifact = entry.summary["artifact_bytes"]
        if size + artifact > LIMIT:
            raise InputError(
                f"{entry.path}: {budget_line(size, artifact)}; run it by {SCRIPT}, or with "
                f"--size-limit {LIMIT - size + entry.summary['code_bytes']}"
            )


def check_starts(script: Path) -> None:
    """Start the script from another folder, without a GPU. Raises InputError if that fails."""
    command = [sys.executable, "-E", "-P", str(script.resolve()), "--help"]
    without_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd="/", env=without_gpu, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise InputError(f"the bundled script does not start: {last}")


def submission(
    entries: Sequence[Entry], verdict: Verdict, name: str, code: int
) -> dict[str, object]:
    """Return ``submission.json``; its bytes are those of the largest artifact."""
    results = {
        str(entry.seed): {
            "val_loss": entry.score(verdict.method)["nats"],
            "val_bpb": entry.score(verdict.method)["bpb"],
            "artifact_bytes": entry.summary["artifact_bytes"],
            "steps": entry.summary["steps"],
            "train_seconds": entry.summary["train_seconds"],
        }
        for entry in entries
    }
    largest = max(entry.summary["artifact_bytes"] for entry in entries)
    return {
        "name": name,
        "author": "",
        "github_id": "",
        "blurb": "",
        "date": date.today().isoformat(),
        "val_loss": statistics.fmean(entry.score(verdict.method)["nats"] for entry in entries),
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
            f"{facts['bytes_total']:,} of {LIMIT:,}. Run on {ran_on['world_size']} x "
            f"{ran_on['devices'][0]} with torch {ran_on['torch']}.",
            "",
            "| seed | bpb | nats | steps | training s | artifact |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "    pip install -r requirements.txt",
            f"    SEED={entries[0].seed} DATA_PATH=DIR torchrun --standalone "
            f"--nproc_per_node={ran_on['world_size']} {SCRIPT}",
            "",
            f"`{SCRIPT}` is all the code, and its preset `submission` all the settings. "
            "DIR holds token shards and their tokenizer, else TOKENIZER_PATH names it. "
            "The logs have an event a line.",
            "",
        ]
    )
