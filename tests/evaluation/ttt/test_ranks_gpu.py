"""On two GPUs: the scores of one, by replays of graphs, of which one sums the gradients."""

import pytest
import torch
from torch import Tensor

from evaluation.score import Scoring
from evaluation.ttt.methods import score_adapting
from evaluation.ttt.sgd import WeightLearner
from runtime.ranks import World
from tests.evaluation.network import (
    Watched,
    fresh,
    small_settings,
    split_of,
    tokens_of_documents,
)
from tests.ranks import on_ranks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]
TOKENS = tokens_of_documents(500, seed=3)
# Heads of 16, the least that the kernels take; a clip that every step reaches. Adapters learn by
# SGD, because Adam takes whole steps by gradients that are nothing but rounding.
PARTS = {
    "num_heads": 2,
    "num_kv_heads": 1,
    "ttt_freeze_blocks": 1,
    "ttt_freeze": ["bigram_proj"],
    "ttt_grad_clip": 0.05,
    "ttt_lora_optimizer": "sgd",
}


class Replayed(Watched):
    """A learner that must have captured its steps of the weights."""

    def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        super().update(tokens, positions, lr_scale)
        if isinstance(self.learner, WeightLearner):
            assert self.learner.micro_batches.captured and self.learner.combine.captured


def adapt(world: World, method: str, backend: str = "kernels") -> float:
    """Return the mean nats of a network whose weights are all far from zero."""
    settings, generator = small_settings(ttt_method=method, **PARTS), torch.Generator()
    model = fresh(settings, backend)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator.manual_seed(2))
    watch = Replayed if backend == "kernels" else Watched
    model, scoring = model.to(world.device), Scoring(world)
    return score_adapting(model, backend, split_of(TOKENS), settings, scoring, watch).nats


@pytest.mark.parametrize("method", ["sgd", "both"])
def test_two_gpus_score_as_one(method: str):
    alone = adapt(World.single(torch.device("cuda", 0)), method)
    for found in on_ranks(2, adapt, method, device="cuda"):
        assert found == pytest.approx(alone, abs=1e-5)
