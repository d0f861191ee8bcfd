"""Sound files of every kind that the project reads, and the loaders that read each."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from artifact.export import export
from artifact.quantisation.recipe import Recipe
from artifact.restore import restore
from data.byte_pairs import BytePairTokenizer
from data.inputs import open_inputs
from data.inspection import examine, show
from data.making import (
    describe_shard,
    write_manifest,
)
from data.shards import write_shard
from data.tokenizer import (
    BYTE_PAIRS_NAME,
    TOKENIZER_NAME,
    ByteTable,
    Tokenizer,
    train_tokenizer,
)
from evaluation.audit import accounting
from kernels import operations
from knowledge.edges import Edges, read_edges, text_of
from knowledge.packing import write_scores
from knowledge.relations import DEFAULT_TABLE, Relations
from knowledge.scores import TokenScores, read_scores
from model.config import Architecture
from model.gpt import GPT
from model.parameters import exported, roles
from runtime import ROUNDTRIP, checkpoint
from runtime.records import read_environment, read_log, read_settings, read_summary
from runtime.run_folder import environment, to_toml
from settings import Settings
from settings.load import merge
from settings.variants import reachable
from swarm.__main__ import simulated
from swarm.decision_log import NAME, read
from swarm.levers import limits
from swarm.replay import replay
from swarm.report import decisions_table
from swarm.simulate import SyntheticRun, simulate
from swarm.steering import Steering
from swarm.yoke import Yoke
from training.reference_clock import WORK, ReferenceClock, network_of, worked_with

VOCAB = 300
TEXT = "the dog and the fox; the fox and the bird: each of them watches the other. "
SMALL = {"num_layers": 2, "model_dim": 32, "num_heads": 4, "num_kv_heads": 2, "rope_dims": 4}
SMALL |= {"xsa_last_n": 1, "ve_layers": [1], "ve_dim": 8, "bigram_vocab_size": 32, "bigram_dim": 8}
QUIET = Console(quiet=True)


class Kind(NamedTuple):
    """A file that is damaged, and what then reads it.

    Attributes:
        path: of the file in a folder of sound files.
        load: reads it as the programs do.
    """

    path: str
    load: Callable[[Path], object]


def make(folder: Path) -> None:
    """Fill ``folder`` with sound files, by the project's own writers."""
    make_run(folder)
    make_data(folder)
    make_network(folder)
    ids = np.arange(9)
    write_scores(folder / "a.scores", TokenScores("0" * 64, VOCAB, ids, np.ones(9, np.float32)))
    pairs = {"kind": "mixed", "tokenizer": "0" * 64, "tokens": [3, 3, 5], "predecessors": [1, 4, 0]}
    (folder / "mixed.edges").write_text(text_of(Edges.model_validate(pairs)))
    (folder / "clock.json").write_text(json.dumps(clock_of_tiny()))
    (folder / "relations.toml").write_bytes(DEFAULT_TABLE.read_bytes())


def clock_of_tiny() -> dict[str, Any]:
    """Return the table of a clock of preset tiny."""
    settings = merge({"preset": "tiny"})
    steps = [{"variant": asdict(each), "milliseconds": 9.5} for each in reachable(settings)]
    found = {"device": "x", "ranks": 1, "network": dict(network_of(settings)), "steps": steps}
    return found | {"work": dict.fromkeys(WORK, 1.5), "worked_with": worked_with(settings)}


def make_run(folder: Path) -> None:
    """Write settings, environment, summary, log and decisions of a run."""
    row = {"bpb": 1.1, "nats": 2.0, "tokens": 9, "bytes": 20, "seconds": 1.5}
    summary = {"steps": 3, "train_seconds": 1.0, "code_bytes": 9, "artifact_bytes": 8}
    summary |= {"scores": {f"{ROUNDTRIP}, plain": row}, "code_sha256": "0" * 64}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "environment.json").write_text(json.dumps(environment()))
    (folder / "settings.toml").write_text(to_toml(Settings().model_dump()))
    rows = list(SyntheticRun("divergence"))[700:1300]
    events = [{"kind": "step", **row._asdict()} | {"step": row.step + 1} for row in rows]
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events[:40]))
    steering = Steering.of(Settings())
    assert steering is not None
    steering.log_to(folder / NAME)
    simulate(steering, rows)
    steering.close()


def make_data(folder: Path) -> None:
    """Write tokenizer, shards and manifest of a data folder."""
    train_tokenizer([TEXT * 20], VOCAB, folder / TOKENIZER_NAME)
    tokenizer = Tokenizer(folder / TOKENIZER_NAME)
    texts = [base64.b64encode(bytes([each])).decode() for each in range(256)]
    pairs = {"name": "x", "pattern": ".", "bos": 256, "special": {"<>": 256}}
    (folder / BYTE_PAIRS_NAME).write_text(json.dumps(pairs | {"tokens": [*texts, None]}))
    splits = {}
    for split in ("train", "val"):
        path = folder / f"fineweb_{split}_000000.bin"
        write_shard(path, tokenizer.encode_documents([TEXT * 3, TEXT]))
        splits[split] = {"files": {path.name: describe_shard(path)}, "source_bytes": 9}
    write_manifest(folder, {"kind": "prepare"}, tokenizer, splits)


def make_network(folder: Path) -> None:
    """Write artifact and checkpoint of a small network."""
    config = Architecture.model_validate(SMALL | {"vocab_size": VOCAB, "mtp_num_heads": 0})
    model = GPT(config, operations("reference"), dtype=torch.float32, max_seq_len=16, seed=0)
    export(folder / "artifact.bin", config.header(), exported(model), roles(config), Recipe())
    tensors = {"a": torch.arange(5.0), "b": torch.zeros(2, 3, dtype=torch.int8)}
    checkpoint.save(folder / "checkpoints", 1, tensors, {"step": 1, "lowest": float("inf")})


def load_decisions(folder: Path) -> None:
    """Read, replay and show a decision log."""
    records = list(read(folder / NAME))
    QUIET.print(decisions_table(records))
    replay(folder / NAME, records)


def load_settings(folder: Path) -> None:
    """Merge a file of settings as a configuration and as a run's own."""
    read_settings(folder)
    merge({"config": str(folder / "settings.toml")}, {})


def load_log(folder: Path) -> None:
    """Read a log of events, and let a swarm steer its steps as `python -m swarm simulate` does."""
    list(read_log(folder / "log.jsonl"))
    simulated(str(folder), 0, {})


def load_data(folder: Path) -> None:
    """Open a data folder as a run does and as `data inspect` does."""
    inputs = open_inputs(folder, None, VOCAB, 1)
    inputs.validation.read(0, len(inputs.validation))
    show(folder, examine(folder, None), QUIET)


def load_tokenizer(folder: Path) -> None:
    """Open a tokenizer alone, and use it."""
    tokenizer = Tokenizer(folder / TOKENIZER_NAME)
    ByteTable.of(tokenizer)
    tokenizer.decode(tokenizer.encode(TEXT))


def load_byte_pairs(folder: Path) -> None:
    """Open a vocabulary of byte pairs, and use it."""
    tokenizer = BytePairTokenizer(folder / BYTE_PAIRS_NAME)
    tokenizer.byte_table()
    tokenizer.decode(range(tokenizer.vocab_size))


def load_summary(folder: Path) -> None:
    """Read a summary as `artifact submit` and the audit do."""
    accounting.read_summary(folder / "artifact.bin")
    read_summary(folder)


def kinds() -> Iterator[Kind]:
    """Yield every kind of file."""
    step = "checkpoints/step_000001"
    yield Kind("settings.toml", load_settings)
    yield Kind("summary.json", load_summary)
    yield Kind("environment.json", read_environment)
    yield Kind("log.jsonl", load_log)
    yield Kind(NAME, load_decisions)
    yield Kind("manifest.json", load_data)
    yield Kind(TOKENIZER_NAME, load_tokenizer)
    yield Kind(BYTE_PAIRS_NAME, load_byte_pairs)
    yield Kind("fineweb_val_000000.bin", load_data)
    yield Kind("artifact.bin", lambda f: restore(f / "artifact.bin", 16, torch.device("cpu")))
    yield Kind(f"{step}/state.json", lambda folder: checkpoint.load(folder / step, "cpu"))
    yield Kind(f"{step}/tensors.safetensors", lambda folder: checkpoint.load(folder / step, "cpu"))
    yield Kind(NAME, lambda folder: Yoke.of_log(folder / NAME, limits(Settings())))
    yield Kind(
        "clock.json", lambda f: ReferenceClock(f / "clock.json", merge({"preset": "tiny"}), 1)
    )
    yield Kind("a.scores", lambda folder: read_scores(folder / "a.scores"))
    yield Kind("mixed.edges", lambda folder: read_edges(folder / "mixed.edges"))
    yield Kind("relations.toml", lambda folder: Relations.read(folder / "relations.toml"))
