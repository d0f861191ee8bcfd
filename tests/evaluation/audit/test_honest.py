"""Honest evaluations pass every check; what is not a number passes none."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.audit.causality import causality
from evaluation.audit.normalisation import normalisation
from evaluation.audit.one_pass import one_pass
from evaluation.audit.runs import Baseline
from evaluation.audit.score_first import score_before_update
from settings import Settings
from tests.evaluation.audit.runs import (
    CUTS,
    LORA,
    SGD,
    TOKENS,
    WHOLE,
    adapting_run,
    units_of,
    windows_run,
)
from tests.evaluation.network import BOS, BYTES, VOCAB, trained


@pytest.mark.parametrize("settings", [SGD, LORA], ids=["sgd", "lora"])
def test_honest_test_time_training_passes_every_check(settings: Settings):
    baseline, units = Baseline(adapting_run(settings), TOKENS), units_of(settings)
    assert baseline.allowed == pytest.approx(1e-6)
    for check in (
        causality("TTT", baseline, sorted(CUTS), VOCAB, BOS),
        score_before_update("TTT", baseline, units),
        one_pass("TTT", baseline, units, BYTES),
    ):
        assert check.passed, check


def test_honest_windows_pass_every_check():
    baseline, model = Baseline(windows_run(), TOKENS), trained(SGD)
    contexts = torch.from_numpy(TOKENS[:48].astype(np.int32)).view(4, 12)
    for check in (
        causality("windows", baseline, sorted(CUTS), VOCAB, BOS),
        one_pass("windows", baseline, WHOLE, BYTES),
        normalisation("windows", model.score, contexts, VOCAB),
    ):
        assert check.passed, check


def test_what_is_not_a_number_passes_nothing():
    def nothing(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, math.nan)

    baseline = Baseline(windows_run(nothing), TOKENS)
    assert one_pass("NaN", baseline, WHOLE, BYTES).passed is False
    assert causality("NaN", baseline, CUTS[:2], VOCAB, BOS).passed is False
    contexts = torch.ones(1, 4, dtype=torch.int32)
    assert normalisation("NaN", nothing, contexts, VOCAB).passed is False
