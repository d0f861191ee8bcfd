"""On two GPUs: the training of one, and the same bits again, with graphs of micro-batches too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.ranks import World
from settings import Settings
from tests.ranks import on_ranks
from tests.training import parallel_jobs as jobs
from tests.training.parallel_jobs import check_reduced, same
from tests.training.small import write_wide_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]
SMALL: dict[str, Any] = {"device": "cuda", "backend": "reference", "dtype": "float32"}
STEPS, SMOOTHED = 100, 20
WIDE: dict[str, Any] = Settings().model_dump() | {
    "device": "cuda",
    "backend": "kernels",
    "train_batch_tokens": 65_536,
}
# Four micro-batches a rank: graphs of the first, of one between and of the last replay.
IN_FOUR = WIDE | {"micro_batch_tokens": 8_192}


# A step of one micro-batch, one of two that leaves out the MTP heads, and one of three within
# windows; the last one comes first.
STAGES = [
    {"until": 0.3, "train_batch_tokens": 49_152, "window": 512},
    {"until": 0.6, "train_batch_tokens": 32_768, "mtp_num_heads": 0},
    {"until": 1.0, "train_batch_tokens": 16_384},
]
VARIANTS = WIDE | {"micro_batch_tokens": 8_192, "stages": STAGES}
ORDER = (0, 1, 0, 2, 2, 1, 0, 1, 2, 0)


def check_runs(folder: Path, changes: dict[str, Any], count: int, near: float) -> None:
    """Losses of two GPUs are one GPU's in means of some steps, and the same bits when run twice."""
    alone = jobs.train(World.single(torch.device("cuda")), folder, changes, count)
    runs = [
        run
        for _ in range(2)
        for run in on_ranks(2, jobs.train, folder, changes, count, device="cuda")
    ]
    smoothed = min(SMOOTHED, count)
    losses = [
        np.convolve(np.array(run["numbers"])[:, 0], np.ones(smoothed) / smoothed, "valid")
        for run in (alone, runs[0])
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=near)
    for run in runs:
        assert run["numbers"] == runs[0]["numbers"]
        for part in ("averaged", "model"):
            assert same(run[part], runs[0][part])


def test_two_gpus_train_as_one_in_fp32(token_folder: Path):
    check_runs(token_folder, SMALL, jobs.STEPS, 1e-4)


@pytest.mark.parametrize("changes", [WIDE, IN_FOUR], ids=["whole", "in four"])
def test_two_gpus_train_as_one_on_the_kernels(tmp_path: Path, changes: dict[str, Any]):
    write_wide_tokens(tmp_path)
    check_runs(tmp_path, changes, STEPS, 5e-3)


def test_variants_switched_on_two_gpus_are_their_launches_bit_for_bit(tmp_path: Path):
    write_wide_tokens(tmp_path)
    replayed, launched = (
        on_ranks(2, jobs.alternate, tmp_path, VARIANTS, ORDER, captured, device="cuda")
        for captured in (True, False)
    )
    for run in (*replayed, *launched):
        assert run["numbers"] == replayed[0]["numbers"]
        assert same(run["model"], replayed[0]["model"])


@pytest.mark.parametrize("changes", [SMALL | {"micro_batch_tokens": 32}, IN_FOUR])
def test_banks_are_reduced_in_the_last_micro_batch_while_its_backward_pass_goes_on(
    tmp_path: Path, token_folder: Path, changes: dict[str, Any]
):
    if changes is IN_FOUR:
        write_wide_tokens(tmp_path)
    folder = tmp_path if changes is IN_FOUR else token_folder
    for found in on_ranks(2, jobs.reduced_early, folder, changes, device="cuda"):
        check_reduced(found)
