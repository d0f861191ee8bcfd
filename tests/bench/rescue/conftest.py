"""Trainers of a network that is as small as can be, for runs with a trouble."""

from pathlib import Path

import pytest

from tests.training import conftest
from tests.training.small import small_settings, trainers

STEPS = 20
SMALL = {
    "num_layers": 1,
    "ve_enabled": False,
    "bigram_vocab_size": 0,
    "mtp_num_heads": 0,
    "muon_backend_steps": 2,
    "train_batch_tokens": 64,
    "micro_batch_tokens": 64,
    "iterations": STEPS,
    "val_points": 0,
    "swarm": False,
}

token_folder = conftest.token_folder


@pytest.fixture
def make(token_folder: Path):
    """``make(**changes)``: a trainer without swarm, closed when the test ends."""
    with trainers() as make_trainer:
        yield lambda **changes: make_trainer(small_settings(**(SMALL | changes)), token_folder)
