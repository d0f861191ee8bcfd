"""C2 catches probabilities that do not sum to one."""

import numpy as np
import torch
from torch import Tensor

from evaluation.audit.normalisation import normalised
from evaluation.audit.observing import sums_of_probabilities
from evaluation.audit.trial import CHOICES_AT_ONCE, choices_at_once
from evaluation.score import ScoreFunction
from tests.evaluation.audit.runs import SGD, TOKENS, broken, causal, windows_run
from tests.evaluation.network import VOCAB, trained

CONTEXTS = torch.from_numpy(TOKENS[:48].astype(np.int32)).view(4, 12)


def sums(score_fn: ScoreFunction, scored: int = 12, at_once: int = 1) -> np.ndarray:
    return sums_of_probabilities(score_fn, CONTEXTS, scored, VOCAB, at_once)


def test_an_unnormalised_cache_is_caught():
    """Tokens that the context holds get a bonus that the others do not pay for."""
    model = trained(SGD)

    def cached(inputs: Tensor, targets: Tensor) -> Tensor:
        nats = model.score(inputs, targets)
        seen = (inputs[:, None, :] == targets[:, :, None]).tril(inputs.size(1) - targets.size(1))
        return nats - 0.01 * seen.any(2)

    assert causal(windows_run(cached)).passed
    broken(normalised("cached", sums(cached)), "4 x 12 places")
    together = sums(cached, at_once=7)  # 40 = 5 * 7 + 5
    np.testing.assert_allclose(together, sums(cached), atol=1e-6)
    assert normalised("honest", sums(model.score, at_once=7), sums(model.score, 4)).passed


def test_rows_with_weights_of_their_own_get_the_tokens_as_choices():
    model = trained(SGD)

    def by_choices(inputs: Tensor, targets: Tensor) -> Tensor:
        assert inputs is CONTEXTS
        return torch.stack([model.score(inputs, each.contiguous()) for each in targets])

    found = sums_of_probabilities(by_choices, CONTEXTS, 4, VOCAB, at_once=7, by_row=True)
    np.testing.assert_allclose(found, sums(model.score, 4), atol=1e-6)


def test_choices_of_long_rows_and_large_vocabularies_fit_into_memory():
    assert choices_at_once(32, 8_192) == CHOICES_AT_ONCE  # preset frontier's
    assert choices_at_once(256, 50_257) == 5  # 128 would be 13 GB
    assert choices_at_once(1 << 20, 1 << 16) == 1


def test_a_bonus_in_short_calls_alone_is_caught():
    """A sliding window scores fewer places than it holds."""
    model = trained(SGD)

    def bonus(inputs: Tensor, targets: Tensor) -> Tensor:
        nats = model.score(inputs, targets)
        return nats - 0.01 * (inputs.shape != targets.shape)

    assert normalised("whole", sums(bonus)).passed
    broken(normalised("both", sums(bonus), sums(bonus, 4)), "4 x 12 and 4 x 4 places")


def test_without_sums_nothing_is_known():
    assert normalised("none").passed is None
