"""C2 catches probabilities that do not sum to one."""

import numpy as np
import torch
from torch import Tensor

from evaluation.audit.normalisation import normalisation
from tests.evaluation.audit.runs import SGD, TOKENS, broken, causal, windows_run
from tests.evaluation.network import VOCAB, trained


def test_an_unnormalised_cache_is_caught():
    """Tokens that the context holds get a bonus that the others do not pay for."""
    model = trained(SGD)

    def cached(inputs: Tensor, targets: Tensor) -> Tensor:
        nats = model.score(inputs, targets)
        seen = (inputs[:, None, :] == targets[:, :, None]).tril(inputs.size(1) - targets.size(1))
        return nats - 0.01 * seen.any(2)

    contexts = torch.from_numpy(TOKENS[:48].astype(np.int32)).view(4, 12)
    assert causal(windows_run(cached)).passed
    broken(normalisation("cached", cached, contexts, VOCAB), "48 positions")
    together = normalisation("cached", cached, contexts, VOCAB, at_once=7)  # 40 = 5 * 7 + 5
    assert together.found == normalisation("cached", cached, contexts, VOCAB).found
    assert normalisation("honest", model.score, contexts, VOCAB, at_once=7).passed
