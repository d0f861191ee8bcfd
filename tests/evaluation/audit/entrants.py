"""Entrants for the audit: a copy of the real code, patched or not, with the run that it leaves."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from artifact.export import export
from data.sentencepiece_model import minimal_model
from data.shards import write_shard
from evaluation.audit.audit import opened, run
from evaluation.audit.case import Case, Effort
from evaluation.audit.entrant import WORKER, Entrant
from evaluation.audit.runs import Check
from files import PROJECT
from model.parameters import exported, roles
from runtime.records import SUMMARY
from tests import warm
from tests.evaluation.network import (
    BOS,
    VOCAB,
    small_settings,
    tokens_of_documents,
    trained,
)
from tests.small import clean_environment

RUNNING = Path(__file__).with_name("running.py")
NOT_COPIED = ("tests", "bench", "docs", ".*", "runs", "corpora", "*.md", "shared", "*.scores")
TOKENS = 1_500
SECONDS = 120
# Windows of 16 with a stride of 4, and documents in chunks of 8, as in the package's other tests.
METHOD = {
    "eval_seq_len": 16,
    "eval_stride": 4,
    "val_batch_size": 64 * 16,
    "ttt_chunk_tokens": 64,
    "ttt_batch_seqs": 2,
    "ttt_epochs": 1,
    "ttt_lr": 0.05,
    "ttt_lora_rank": 3,
    "ttt_lora_alpha": 3.0,
    "ttt_lora_chunk": 8,
    "ttt_lora_documents": 4,
    "device": "cpu",
}
Patch = tuple[str, str, str]  # file, old text, new text


@dataclass(frozen=True)
class World:
    """What all entrants of a session share.

    Attributes:
        code: a copy of the project.
        data: with a validation split and no training shards.
        artifact: of an honest network.
    """

    code: Path
    data: Path
    artifact: Path


def make_world(folder: Path) -> World:
    """Copy the project, write a split and export a trained network."""
    code = folder / "code"
    shutil.copytree(PROJECT, code, ignore=shutil.ignore_patterns(*NOT_COPIED))
    world = World(code, folder, folder)
    text = tokens_of_documents(TOKENS + 1, seed=6, longest=70)
    return with_network(with_text(world, folder / "data", text), folder / "artifact.bin")


def with_text(world: World, data: Path, tokens: np.ndarray) -> World:
    """Return a world with another split, written to a new folder."""
    data.mkdir()
    (data / "tokenizer.model").write_bytes(minimal_model(VOCAB, BOS))
    write_shard(data / "val.bin", tokens)
    return replace(world, data=data)


def with_network(world: World, path: Path, **changes: object) -> World:
    """Return a world with the artifact of another trained network, written to a path."""
    settings = small_settings(**changes)
    model = trained(settings)
    architecture = settings.architecture().model_dump() | {"mtp_num_heads": 0}
    export(path, architecture, exported(model), roles(model.config))
    return replace(world, artifact=path)


def patched(world: World, patches: Sequence[Patch], folder: Path) -> Path:
    """Return a copy of the code with patches; each old text is in its file once."""
    if not patches:
        return world.code
    shutil.copytree(world.code, folder, copy_function=os.link)
    for name, old, new in patches:
        path = folder / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} has {text.count(old)} times: {old}"
        path.unlink()  # it is a link to the honest file
        path.write_text(text.replace(old, new))
    return folder


@contextmanager
def entrant(
    world: World,
    folder: Path,
    patches: Sequence[Patch] = (),
    edit: Callable[[Path], None] | None = None,
    effort: Effort | None = None,
    **method: object,
) -> Iterator[Case]:
    """Yield the case of an entrant: code, a run that this code left, and its process.

    Args:
        world: code, data and artifact.
        folder: an empty one.
        patches: of the code.
        edit: changes the files of the run.
        effort: of the audit.
        method: settings of the evaluation in place of `METHOD`.
    """
    code = patched(world, patches, folder / "code")
    made = folder / "run"
    made.mkdir()
    artifact = Path(shutil.copy(world.artifact, made))
    pipes = [folder / name for name in ("questions", "answers")]
    for pipe in pipes:
        os.mkfifo(pipe)
    values = json.dumps(METHOD | method)
    arguments = (RUNNING, code, WORKER, artifact, world.data, values, *pipes)
    started = warm.start(*arguments, environment=clean_environment(), folder=folder)
    await_file(made / SUMMARY, started)
    if edit:
        edit(made)
    process = Entrant(pipes[1], pipes[0])
    try:
        given: Mapping[str, Any] = {"data": world.data, "device": "cpu"}
        yield opened(artifact, given, code, process, effort or Effort(cuts=4, places=400))
    finally:
        process.close()
        started.wait(SECONDS)


def await_file(path: Path, started: warm.Started) -> None:
    """Wait until the entrant's process has written a file."""
    begin = time.monotonic()
    while not path.exists():
        assert started.returncode is None, started.stderr
        assert time.monotonic() < begin + SECONDS, started.stderr
        time.sleep(0.01)


def audited(case: Case, *names: str) -> list[Check]:
    """Run checks by their names in `CHECKS`."""
    return run(case, names)
