"""Documents and gradients shared by real ranks: the scores are those of one rank."""

import numpy as np
import pytest
import torch

from evaluation.score import Scoring
from evaluation.ttt.methods import score_adapting
from runtime.ranks import World
from tests.evaluation.network import CPU, fresh, small_settings, split_of, tokens_of_documents
from tests.ranks import on_ranks

TOKENS = tokens_of_documents(200, seed=12, longest=40)


def of_targets(world: World) -> np.ndarray:
    settings = small_settings(
        ttt_method="both", ttt_batch_seqs=4, ttt_lora_weight_decay=1.0, ttt_lora_documents=8
    )
    model, generator = fresh(settings), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():  # of which some begin as zeros
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    found = score_adapting(model, "reference", split_of(TOKENS), settings, Scoring(world))
    return found.of_targets.numpy()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_score_each_target_as_one_does(ranks: int):
    """Batches of other documents that end at other times, of whose adapters all ranks go on."""
    alone = of_targets(CPU)
    for found in on_ranks(ranks, of_targets):
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)
