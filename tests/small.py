"""What several packages' tests start from: a small architecture, and a process's environment."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data.tokenizer import Tokenizer, train_tokenizer
from kernels import operations
from model.config import Architecture
from model.gpt import GPT

# Every part that a network can have, in three layers of width 32.
NETWORK = {
    "num_layers": 3,
    "model_dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "rope_dims": 4,
    "xsa_last_n": 1,
    "ve_layers": [2],
}
TABLES = {"ve_dim": 8, "bigram_vocab_size": 32, "bigram_dim": 8}


def small_model(spread: float, **changes: object) -> GPT:
    """Without MTP heads, on the reference's operations, every weight moved by ``spread`` or so."""
    config = Architecture.model_validate(NETWORK | {"mtp_num_heads": 0} | changes)
    made = GPT(config, operations("reference"), dtype=torch.float32, max_seq_len=16, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return made


def clean_environment(**extra: str) -> dict[str, str]:
    """Of a process that must not see what this one was told."""
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LD_LIBRARY_PATH")}
    return keep | {"OMP_NUM_THREADS": "1"} | extra


def free_port() -> int:
    """Return a port of this machine that nothing listens to now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def trained_tokenizer(documents: list[str], vocab_size: int, folder: Path) -> Tokenizer:
    path = folder / "tokenizer.model"
    train_tokenizer(documents, vocab_size, path)
    return Tokenizer(path)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread in every test of a package whose ``conftest`` imports this."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
