"""Honest evaluations pass every check; what is not a number passes none."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.audit.causality import causality
from evaluation.audit.normalisation import normalised
from evaluation.audit.observing import sums_of_probabilities
from evaluation.audit.one_pass import one_pass
from evaluation.audit.score_first import score_before_update
from settings import Settings
from tests.evaluation.audit.runs import (
    BOTH,
    CUTS,
    LORA,
    SGD,
    TOKENS,
    WHOLE,
    adapting_run,
    baseline,
    phases_of,
    units_of,
    windows_run,
)
from tests.evaluation.network import BOS, BYTES, VOCAB, trained


@pytest.mark.parametrize("settings", [SGD, LORA, BOTH], ids=["sgd", "lora", "both"])
def test_honest_test_time_training_passes_every_check(settings: Settings):
    run, units = baseline(adapting_run(settings)), units_of(settings)
    assert run.allowed.max() == pytest.approx(1e-6)
    cuts = sorted(CUTS)[:: 3 if settings == BOTH else 1]
    one_by_one = None
    if settings != SGD:
        alone = settings.model_copy(update={"ttt_lora_documents": 1})
        one_by_one = baseline(adapting_run(alone))
    for check in (
        causality("TTT", run, cuts, VOCAB, BOS, one_by_one=one_by_one),
        score_before_update("TTT", run, units, phases_of(settings)),
        one_pass("TTT", run, units, BYTES),
    ):
        assert check.passed, check


def test_honest_windows_pass_every_check():
    run, model = baseline(windows_run()), trained(SGD)
    contexts = torch.from_numpy(TOKENS[:48].astype(np.int32)).view(4, 12)
    for check in (
        causality("windows", run, sorted(CUTS), VOCAB, BOS),
        one_pass("windows", run, WHOLE, BYTES),
        normalised("windows", sums_of_probabilities(model.score, contexts, 12, VOCAB)),
    ):
        assert check.passed, check


def test_what_is_not_a_number_passes_nothing():
    def nothing(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, math.nan)

    run = baseline(windows_run(nothing))
    assert one_pass("NaN", run, WHOLE, BYTES).passed is False
    assert causality("NaN", run, CUTS[:2], VOCAB, BOS).passed is False
    contexts = torch.ones(1, 4, dtype=torch.int32)
    sums = sums_of_probabilities(nothing, contexts, 4, VOCAB)
    assert normalised("NaN", sums).passed is False
