"""C1 catches a score that reads later tokens, and a run that reads none."""

import math

import torch
from torch import Tensor

from tests.evaluation.audit.runs import SGD, broken, causal, windows_run
from tests.evaluation.network import VOCAB, trained


def test_peeking_at_the_next_token_is_caught():
    model = trained(SGD)

    def peek(inputs: Tensor, targets: Tensor) -> Tensor:
        """A little less for a token before an even one."""
        nats = model.score(inputs, targets)
        return nats - 1e-4 * (torch.roll(targets, -1, 1) % 2 == 0)

    broken(causal(windows_run(peek)), "moved by")


def test_peeking_at_the_end_of_the_window_is_caught():
    model = trained(SGD)

    def peek(inputs: Tensor, targets: Tensor) -> Tensor:
        return model.score(inputs, targets) - 1e-4 * (targets[:, -1:] % 2 == 0)

    broken(causal(windows_run(peek)), "moved by")


def test_a_run_that_reads_nothing_is_no_proof():
    def constant(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, math.log(VOCAB))

    broken(causal(windows_run(constant)), "no score after 0 read")
