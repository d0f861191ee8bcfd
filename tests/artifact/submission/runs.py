"""Runs that a submission is made of: one that trained, and copies as though of other seeds."""

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

from files import PROJECT
from tests import warm
from tests.small import clean_environment

METHOD = "roundtrip, plain"
NETWORK = """
vocab_size = 300
num_layers = 2
model_dim = 32
num_heads = 4
num_kv_heads = 2
rope_dims = 4
xsa_last_n = 1
ve_layers = [1]
ve_dim = 8
bigram_vocab_size = 64
bigram_dim = 8
train_seq_len = 32
train_batch_tokens = 384
eval_seq_len = 32
eval_stride = 0
val_batch_size = 4096
wallclock = 0.0
iterations = 3
warmup_steps = 1
calibration_tokens = 384
checkpoint_minutes = 0.0
device = "cpu"
backend = "reference"
"""


def python(
    *arguments: object, cwd: Path = PROJECT, **extra: str
) -> subprocess.CompletedProcess[str]:
    return warm.run(*arguments, environment=clean_environment(**extra), folder=cwd)


def like(run: Path, to: Path, seed: int, bpb: float, **settings: object) -> Path:
    """A copy of a run as though it had had another seed and score."""
    shutil.copytree(run, to)
    lines = (run / "settings.toml").read_text().splitlines()
    changes = {"seed": seed} | settings
    lines = [line for line in lines if line.split(" = ")[0] not in changes]
    lines += [f"{name} = {json.dumps(value)}" for name, value in changes.items()]
    (to / "settings.toml").write_text("\n".join(lines))
    row = json.loads((run / "summary.json").read_text())["scores"][METHOD]
    score(to, METHOD, bpb=bpb, nats=bpb * math.log(2) * row["bytes"] / row["tokens"])
    return to


def score(run: Path, method: str, **changes: float) -> None:
    """Change a score of a run where the run wrote it: in the summary and in the log."""
    summary = json.loads((run / "summary.json").read_text())
    summary["scores"][method].update(changes)
    (run / "summary.json").write_text(json.dumps(summary))
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for event in events:
        if f"{event.get('weights')}, {event.get('method')}" == method:
            event.update(changes)
    (run / "log.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))


def spoil(run: Path, name: str, **changes: Any) -> None:
    """Change fields of a run's JSON file."""
    content = json.loads((run / name).read_text()) | changes
    (run / name).write_text(json.dumps(content))
