"""One optimizer step of preset ``seed`` on a GPU, fused and plain, checked against fp32."""

from typing import Any

import torch
from torch import Tensor

from bench.harness.network import make_model
from kernels.optimizer.reference import lean_
from model.config import Architecture
from model.gpt import GPT
from model.parameters import exported
from settings import Settings
from training.averaging import ExponentialAverage
from training.fused_optimizer import FusedOptimizer
from training.optimizer import Optimizer, clip_

LEVERS = {
    "lr_scale": 1.0,
    "momentum": 0.95,
    "decay_factor": 1.0,
    "clip": 0.3,
    "skip_norm": 3e38,
    "averaging_decay": 0.997,
    "lean": 0.1,
}
# Allowed errors: of bf16 products, as a multiple of the plain optimizer's; of another summation
# order, relative to the step; of one more rounding, relative to the weights.
TOLERANCE, OTHER_ORDER, OTHER_ROUNDING = 1.5, 1e-4, 2**-23


class Stepper:
    """A model with gradients that stay, and its averages; the base of the two ways to a step.

    Args:
        changes: settings of the optimizer.
    """

    def __init__(self, **changes: Any) -> None:
        self.settings = Settings(**Architecture().model_dump() | changes)
        self.model: GPT = make_model("reference")
        self.averaging = ExponentialAverage(exported(self.model), LEVERS["averaging_decay"])
        self.levers = {name: torch.tensor(x, device="cuda") for name, x in LEVERS.items()}
        for i, parameter in enumerate(self.model.parameters()):
            draw = torch.Generator().manual_seed(i)
            parameter.grad = torch.randn(parameter.shape, generator=draw).to("cuda")

    @property
    def named(self) -> dict[str, Tensor]:
        """Weights by name."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    @property
    def state(self) -> dict[str, Tensor]:
        """Weights and averages by name."""
        return self.named | self.averaging.tensors()


class Plain(Stepper):
    """Clip, optimizer and averages, operation by operation."""

    def __init__(self, dtype: torch.dtype, **changes: Any) -> None:
        super().__init__(**changes)
        self.optimizer = Optimizer(self.model, self.settings, dtype)

    def __call__(self) -> None:
        gradients = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        clip_(gradients, self.levers["clip"])
        self.optimizer.step(LEVERS["lr_scale"], LEVERS["momentum"])
        self.averaging.move()
        if self.settings.lean:
            lean_(self.named, self.averaging.exponential, LEVERS["lean"])


class Fused(Stepper):
    """All of it in the fused optimizer."""

    def __init__(self, dtype: torch.dtype, **changes: Any) -> None:
        super().__init__(**changes)
        averages = self.averaging.exponential
        self.optimizer = FusedOptimizer(self.model, self.settings, dtype, averages, self.levers)

    def __call__(self) -> None:
        self.optimizer.step()


def moved(stepper: Plain | Fused) -> dict[str, Tensor]:
    """Return by how much one step changes weights and averages."""
    before = {name: tensor.clone() for name, tensor in stepper.state.items()}
    stepper()
    return {name: tensor - before[name] for name, tensor in stepper.state.items()}


def check(**changes: Any) -> None:
    """Compare one fused step, its products in bf16, with the plain optimizer in fp32.

    Args:
        changes: settings of the optimizer.

    Raises:
        AssertionError: a weight's or an average's step is further off than the plain one's in bf16.
    """
    reference = Plain(torch.float32, **changes)
    exact = moved(reference)
    ours, theirs = (moved(way(torch.bfloat16, **changes)) for way in (Fused, Plain))
    far = {}
    for name, step in exact.items():
        error, allowed = (float((found[name] - step).norm()) for found in (ours, theirs))
        rounding = OTHER_ORDER * step.norm() + OTHER_ROUNDING * reference.state[name].norm()
        if not error <= max(TOLERANCE * allowed, float(rounding)):
            far[name] = f"{error:.2e} of {float(step.norm()):.2e}, plain {allowed:.2e}"
    assert not far, f"steps too far off: {far}"
