"""Data for the studies' commands, which refuse a folder without any."""

from pathlib import Path

import pytest

from bench.harness.rig import random_data


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random tokens of the frontier's vocabulary. Leave them as they are."""
    return random_data(tmp_path_factory.mktemp("random"), 8192)
