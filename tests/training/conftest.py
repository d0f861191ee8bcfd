"""Trainers of small networks on a CPU, and of wider ones on a GPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from data.shards import TokenStream
from runtime.device import choose
from runtime.ranks import World
from settings import Settings
from tests.gpu_run import in_turn_to_compile
from tests.training.small import small_settings, trainers, write_tokens, write_wide_tokens
from training.trainer import Trainer
from training.warm_up import warm_up


@pytest.fixture(scope="session")
def token_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    write_tokens(folder)
    return folder


@pytest.fixture
def make_trainer(token_folder: Path):
    """``make_trainer(**changes)``: a trainer on a CPU, closed when the test ends."""
    with trainers() as make:
        yield lambda **changes: make(small_settings(**changes), token_folder)


@pytest.fixture(scope="session")
def wide_stream(tmp_path_factory: pytest.TempPathFactory) -> TokenStream:
    folder = tmp_path_factory.mktemp("tokens")
    write_wide_tokens(folder)
    return TokenStream.open(folder, "train", 1024)


def wide_trainer(
    stream: TokenStream,
    scores: np.ndarray | None,
    reads: Sequence[str] = (),
    **changes: object,
) -> Trainer:
    """A trainer on the GPU, of preset ``seed`` but for its tokens a step."""
    values = {"train_seq_len": 2048, "train_batch_tokens": 16_384} | changes
    settings = Settings(**values)  # pyright: ignore[reportArgumentType]
    world = World.single(torch.device("cuda"))
    return Trainer(settings, stream, world, choose(settings, world.device), scores, reads)


@pytest.fixture(scope="session")
def compiled_step(wide_stream: TokenStream) -> None:
    """Compile a step's kernels in parallel, before a first step compiles them one by one."""
    with in_turn_to_compile():
        trainer = wide_trainer(wide_stream, None, backend="kernels")
        warm_up(trainer, 1)
        trainer.close()


@pytest.fixture
def make_wide(wide_stream: TokenStream, request: pytest.FixtureRequest):
    """``make_wide(backend=...)``: a ``wide_trainer``, closed when the test ends."""
    made: list[Trainer] = []

    def make(
        scores: np.ndarray | None = None, reads: Sequence[str] = (), **changes: object
    ) -> Trainer:
        if changes.get("backend") == "kernels":
            request.getfixturevalue("compiled_step")
        made.append(wide_trainer(wide_stream, scores, reads, **changes))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()
