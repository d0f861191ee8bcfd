"""Documents and gradients shared by real ranks: the scores are those of one rank."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from evaluation.score import Scoring
from evaluation.ttt.methods import score_adapting
from evaluation.ttt.sgd import learning_weights
from runtime.ranks import World
from tests.evaluation.network import (
    CPU,
    LENGTH,
    fresh,
    small_settings,
    split_of,
    tokens_of_documents,
    trained,
)
from tests.ranks import on_ranks
from tests.training.recorded_graphs import RecordedGraphs

TOKENS = tokens_of_documents(200, seed=12, longest=40)
FROZEN = {"ttt_freeze_blocks": 2, "ttt_freeze": ["tok_emb"], "ttt_grad_clip": 0.05}


def of_targets(world: World, changes: dict[str, object]) -> np.ndarray:
    shared = {"ttt_batch_seqs": 4, "ttt_lora_weight_decay": 1.0, "ttt_lora_documents": 8}
    settings = small_settings(**shared, **changes)
    model, generator = fresh(settings), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():  # of which some begin as zeros
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    found = score_adapting(model, "reference", split_of(TOKENS), settings, Scoring(world))
    return found.of_targets.numpy()


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    "changes",
    [{"ttt_method": "both"}, {"ttt_method": "both"} | FROZEN, {"ttt_method": "sgd"} | FROZEN],
    ids=["both", "both, layers frozen", "sgd, layers frozen"],
)
def test_ranks_score_each_target_as_one_does(ranks: int, changes: dict[str, object]):
    """Batches of other documents that end at other times, of whose adapters all ranks go on."""
    alone = of_targets(CPU, changes)
    for found in on_ranks(ranks, of_targets, changes):
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)


@torch.library.custom_op("tests::sum_over_ranks", mutates_args=("tensor",))
def sum_over_ranks(tensor: Tensor) -> None:
    dist.all_reduce(tensor)


class Recordable(World):
    """Its sums are operations that recorded graphs repeat, as CUDA graphs repeat NCCL's."""

    def sum_(self, tensor: Tensor) -> Tensor:
        sum_over_ranks(tensor)
        return tensor


def learned(world: World, clip: float, captured: bool) -> tuple[dict[str, np.ndarray], int]:
    """Return the weights after six steps, and how often a graph was replayed."""
    settings = small_settings(ttt_freeze_blocks=1, ttt_grad_clip=clip, ttt_batch_seqs=2)
    model, graphs = trained(settings), RecordedGraphs()
    shared = Recordable(world.rank, world.size, world.device, world.control, world.peers)
    with learning_weights(model, "reference", settings, LENGTH, shared) as learner:
        if captured:
            learner.graphs = graphs  # pyright: ignore[reportAttributeAccessIssue]
        text = torch.from_numpy(TOKENS[: 4 * 17].astype(np.int32)).view(4, 17)
        learner.update(text, torch.arange(4 * 16).view(4, 16), 1.0)
        found = {name: p.detach().clone().numpy() for name, p in model.named_parameters()}
        assert captured == learner.combine.captured == learner.micro_batches.captured
    assert not (learner.combine.captured or learner.micro_batches.captured)
    return found, sum(recording.replays for recording in graphs.recorded)


@pytest.mark.parametrize("clip", [0.05, 0.0], ids=["clipped", "not clipped"])
def test_a_replayed_step_of_two_ranks_is_a_launched_one(clip: float):
    """Bit for bit, because warm-ups, each of which sums the gradients once more, do not count."""
    launched, replayed = (on_ranks(2, learned, clip, captured) for captured in (False, True))
    for (expected, none), (found, replays) in zip(launched, replayed, strict=True):
        assert (none, replays) == (0, 12)
        for name, weight in expected.items():
            np.testing.assert_array_equal(found[name], weight, err_msg=name)
