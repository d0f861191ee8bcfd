"""A split of synthetic tokens with something to learn, and a network small enough to step often."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from data.shards import TokenStream, write_shard
from runtime.device import choose
from runtime.ranks import World
from settings import Settings
from tests.small import NETWORK, TABLES
from training.trainer import Trainer

VOCAB = 64


def small_settings(**changes: object) -> Settings:
    """Two layers of width 32, with every part of the architecture that a run can have."""
    values = {
        "vocab_size": VOCAB,
        **NETWORK,
        **TABLES,
        "train_seq_len": 16,
        "train_batch_tokens": 192,
        "micro_batch_tokens": 192,
        "eval_seq_len": 16,
        "eval_stride": 4,
        "val_batch_size": 256,
        "wallclock": 0.0,
        "iterations": 40,
        "warmup_steps": 0,
        "warmdown_iters": 0,
        "muon_momentum_warmup_steps": 10,
        "late_qat_threshold": 0.0,
        "device": "cpu",
    }
    return Settings(**(values | changes))  # pyright: ignore[reportArgumentType]


def write_tokens(folder: Path, count: int = 6000) -> None:
    """Two splits in which each token mostly follows from the one before."""
    draw = np.random.default_rng(0)
    follows = draw.permutation(VOCAB)
    for split, tokens_in_split in (("train", count), ("val", 600)):
        tokens = np.empty(tokens_in_split, np.uint16)
        tokens[0] = 1
        for place in range(1, tokens_in_split):
            certain = draw.random() < 0.8
            tokens[place] = follows[tokens[place - 1]] if certain else draw.integers(VOCAB)
        write_shard(folder / f"fineweb_{split}_000000.bin", tokens)


MakeTrainer = Callable[..., Trainer]


@contextmanager
def trainers() -> Iterator[MakeTrainer]:
    """Yield ``make(settings, folder, scores=None)``; close the trainers it made at the end.

    Each trains on a CPU, on the split that `write_tokens` wrote to ``folder``.
    """
    made: list[Trainer] = []
    torch.set_num_threads(1)

    def make(
        settings: Settings,
        folder: Path,
        scores: np.ndarray | None = None,
        reads: Sequence[str] = (),
    ) -> Trainer:
        stream = TokenStream.open(folder, "train", settings.vocab_size)
        world = World.single(torch.device("cpu"))
        backends = choose(settings, world.device)
        made.append(Trainer(settings, stream, world, backends, scores, reads))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()


def write_wide_tokens(folder: Path, chains: int = 1024, length: int = 3072) -> None:
    """3 M tokens of 1,024: mostly one follows from another, else they are as frequent as words."""
    draw = np.random.default_rng(0)
    follows = draw.permutation(1024)
    frequency = 1 / np.arange(1, 1025)
    frequency /= frequency.sum()
    tokens = np.empty((chains, length), np.uint16)
    tokens[:, 0] = 1
    for place in range(1, length):
        free = draw.choice(1024, chains, p=frequency)
        certain = draw.random(chains) < 0.6
        tokens[:, place] = np.where(certain, follows[tokens[:, place - 1]], free)
    write_shard(folder / "fineweb_train_000000.bin", tokens.ravel())
