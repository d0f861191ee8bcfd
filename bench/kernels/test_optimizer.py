"""Clip, AdamW, Muon and averages of all parameters: fused, against operation by operation.

The unfused optimizer takes rates and momentum from the host, so a run launches its operations one
by one. Its graph is no usable optimizer; it shows the time of the kernels alone.
"""

import torch

from bench.harness.bar import Bar
from bench.harness.contest import Contest
from bench.harness.optimizers import Fused, Plain, check
from model.parameters import parameters
from training.optimizer import RULES

FP32 = 4  # bytes
BAR = Bar(ratios={"unfused, launched": 3.0}, seconds=0.0015)


def bytes_moved(fused: Fused) -> int:
    """Return the bytes of gradients read, and of state and weights read and written."""
    state = [t for name, t in fused.optimizer.tensors().items() if name != "adamw.steps"]
    changed = [*state, *fused.state.values()]
    gradients = sum(parameter.numel() for parameter in fused.model.parameters())
    return FP32 * (gradients + 2 * sum(tensor.numel() for tensor in changed))


def flops(fused: Fused) -> int:
    """Return the FLOPs of Newton-Schulz: a Gram matrix, its square, their sum times the matrix."""
    total = 0
    for spec in parameters(fused.model.config):
        if RULES[spec.rule].optimizer == "muon":
            count, *matrix = spec.shape
            short, long = sorted(matrix)
            total += count * (4 * short * short * long + 2 * short**3)
    return fused.settings.muon_backend_steps * total


def test_optimizer(contest):
    ours, plain = Fused(torch.bfloat16), Plain(torch.bfloat16)
    contest(
        Contest(
            name="optimizer, step",
            ours=ours,
            peers={"unfused": plain},
            launched={"unfused, launched": plain},
            check=check,
            bytes_moved=bytes_moved(ours),
            flops=flops(ours),
            bar=BAR,
        )
    )
