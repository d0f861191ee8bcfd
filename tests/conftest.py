"""Shared by all tests: without a GPU, kernels are interpreted and ``gpu`` tests are skipped."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads it when a kernel is defined, so before any test imports one.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
