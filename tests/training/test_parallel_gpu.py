"""On two GPUs: the training of one, and the same bits again, with graphs of micro-batches too."""

from pathlib import Path

import numpy as np
import pytest
import torch

from settings import Settings
from tests.training import parallel_jobs as jobs
from tests.training.conftest import write_wide_tokens
from tests.training.parallel_jobs import same
from tests.training.ranks import on_ranks
from training.world import World

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]
SMALL = {"device": "cuda", "backend": "reference", "dtype": "float32"}
# Four micro-batches a rank, so that the graphs of both kinds replay before the ranks meet.
WIDE = Settings().model_dump() | {
    "device": "cuda",
    "backend": "kernels",
    "train_batch_tokens": 65_536,
    "micro_batch_tokens": 8_192,
}


@pytest.mark.parametrize(("changes", "near"), [(SMALL, 1e-4), (WIDE, 5e-3)], ids=["fp32", "bf16"])
def test_two_gpus_train_as_one_with_the_same_bits_each_time(
    tmp_path: Path, token_folder: Path, changes: dict[str, object], near: float
):
    folder = token_folder
    if changes is WIDE:
        folder = tmp_path
        write_wide_tokens(folder)
    alone = jobs.train(World.single(torch.device("cuda")), folder, changes)
    runs = [
        run for _ in range(2) for run in on_ranks(2, jobs.train, folder, changes, device="cuda")
    ]
    losses = [np.array(run["numbers"])[:, 0] for run in (alone, runs[0])]
    np.testing.assert_allclose(losses[1], losses[0], rtol=near)
    for run in runs:
        assert run["numbers"] == runs[0]["numbers"]
        for part in ("averaged", "model"):
            assert same(run[part], runs[0][part])
