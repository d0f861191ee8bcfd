"""Ranks share a bank's matrices, and train as one rank does: real processes, gloo between them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kernels.optimizer.statistics import FIELDS
from runtime.ranks import World
from tests.kernels.tools.twins import DEVICE
from tests.ranks import on_ranks
from tests.training import parallel_jobs as jobs
from tests.training.parallel_jobs import BANKS, Arrays, check_reduced, same

# Three layers on two ranks: attention's banks divide, the MLP's do not. Two layers on three ranks:
# the last one has no matrix of any bank, and rows have second moments.
NETWORKS = {2: {}, 3: {"num_layers": 2, "ve_layers": [1], **jobs.RULES}}
NEAR = 2e-5  # of a loss or norm: sums in another order, a few steps on
ALONE = World.single(torch.device("cpu"))

Story = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def told(token_folder: Path, folder: Path) -> dict[int, list[Story]]:
    """By number of ranks, each one's story; two ranks write the checkpoint that all take up."""
    return {
        size: on_ranks(size, jobs.story, token_folder, folder, NETWORKS[size], size == 2)
        for size in (2, 3)
    }


@pytest.fixture(params=[2, 3])
def stories(told: dict[int, list[Story]], request: pytest.FixtureRequest) -> list[Story]:
    return told[request.param]


def changes_of(stories: list[Story]) -> dict[str, Any]:
    return NETWORKS[len(stories)]


def assert_near(got: Arrays, expected: Arrays, most: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("random."):
            continue
        error = np.linalg.norm((got[name].astype(float) - value).ravel())
        assert error <= most * max(np.linalg.norm(value.astype(float).ravel()), 1e-3), name


@pytest.mark.parametrize("averaging", ["trained", "latest"])
def test_ranks_train_as_one(stories: list[Story], token_folder: Path, averaging: str):
    changes = changes_of(stories) | ({} if averaging == "trained" else jobs.LATEST)
    alone = jobs.train(ALONE, token_folder, changes)
    for story in stories:
        ours = story[averaging]
        np.testing.assert_allclose(ours["numbers"], alone["numbers"], rtol=NEAR)
        for part in ("whole", "averaged", "model"):
            assert_near(ours[part], alone[part], 1e-3)


def test_ranks_measure_what_one_rank_measures(stories: list[Story], token_folder: Path):
    alone = jobs.measure(ALONE, token_folder, changes_of(stories))
    for story in stories:
        assert story["measured"] == stories[0]["measured"]
        np.testing.assert_allclose(story["measured"], alone, rtol=NEAR)


def test_ranks_shrink_weights_as_one_rank_does(stories: list[Story], token_folder: Path):
    alone = jobs.shrink(ALONE, token_folder, changes_of(stories))
    for story in stories:
        assert story["shrunken"]["numbers"] == stories[0]["shrunken"]["numbers"]
        np.testing.assert_allclose(story["shrunken"]["numbers"], alone["numbers"], rtol=NEAR)
        assert_near(story["shrunken"]["model"], alone["model"], 1e-3)


def test_every_rank_has_the_same_bits_and_has_them_again(stories: list[Story]):
    first = stories[0]["trained"]
    for run in (story[name] for story in stories for name in ("trained", "again")):
        assert run["numbers"] == first["numbers"]
        for part in ("whole", "averaged", "model"):
            assert same(run[part], first[part]), part


def test_what_a_rank_holds_of_the_banks_exists_once(stories: list[Story]):
    model = stories[0]["trained"]["model"]
    for kind in ("muon.momentum", "average"):
        for bank in BANKS:
            held = [story["trained"]["own"][f"{kind}.{bank}"] for story in stories]
            assert sum(held) == model[bank].size
            most = -(-len(model[bank]) // len(stories))
            assert max(held) == most * model[bank][0].size


def test_a_step_is_one_sum_of_all_that_is_small_and_two_collectives_a_bank(stories: list[Story]):
    for story in stories:
        assert story["collectives"] == {
            "c10d::_reduce_scatter_base_": len(BANKS),
            "c10d::allreduce_": 2,  # small gradients; squares of the banks' norms
            "c10d::_allgather_base_": len(BANKS),
        }


def test_banks_are_reduced_in_the_last_micro_batch_while_its_backward_pass_goes_on(
    stories: list[Story],
):
    for story in stories:
        check_reduced(story["reduced early"])


def test_a_gradient_that_is_not_finite_on_one_rank_costs_all_the_step(stories: list[Story]):
    for story in stories:
        (_, norm, skipped), stayed = story["poisoned"]
        assert not np.isfinite(norm)
        assert (skipped, stayed) == (1, True)


def test_what_was_kept_comes_back_on_every_rank(stories: list[Story]):
    assert all(story["returned"] for story in stories)


def test_a_checkpoint_of_two_ranks_goes_on_bit_for_bit(told: dict[int, list[Story]]):
    for story in told[2]:
        assert same(story["resumed"][1], told[2][0]["saved"])


def test_a_checkpoint_of_two_ranks_goes_on_on_one_and_on_three(
    told: dict[int, list[Story]], token_folder: Path, folder: Path
):
    as_saved, _ = told[2][0]["resumed"]
    alone = jobs.resume(ALONE, token_folder, folder, jobs.RULES)
    for taken_up, later in (alone, *(story["resumed"] for story in told[3])):
        assert same(taken_up, as_saved)
        for bank in BANKS:
            matrices = taken_up[f"model.{bank}"]
            moments = taken_up[f"muon.second_moment.{bank}"]
            assert moments.shape == (*matrices.shape[:2], 1)
            assert moments.all()
        assert_near(later, told[2][0]["saved"], 1e-3)


def test_a_checkpoint_of_fewer_matrices_is_refused(stories: list[Story]):
    for story in stories:
        assert "muon.momentum.qo_bank does not fit these settings" in story["refused"]


@pytest.mark.skipif(DEVICE != "cpu", reason="on a GPU, test_parallel_gpu.py is of it")
@pytest.mark.parametrize(("name", "skip_norm"), [("fused", np.inf), ("fused, skipped", 0.0)])
def test_the_fused_optimizer_steps_and_sees_the_same_on_any_ranks(
    stories: list[Story], name: str, skip_norm: float
):
    alone = jobs.fused(ALONE, changes_of(stories), skip_norm)
    for story in stories:
        ours = story[name]
        assert all(map(np.array_equal, ours["numbers"], stories[0][name]["numbers"]))
        assert same(ours["whole"], stories[0][name]["whole"])
        np.testing.assert_allclose(ours["numbers"], alone["numbers"], rtol=1e-5)
        assert_near(ours["whole"], alone["whole"], 1e-4)
    updates = alone["numbers"][-1][:-1].reshape(-1, len(FIELDS))[:, FIELDS.index("update")]
    assert updates.all() == (name == "fused")
