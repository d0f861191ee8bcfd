"""AdamW for everything that is no bank (Loshchilov & Hutter 2017, arXiv:1711.05101)."""

from collections.abc import Mapping

import torch
from torch import Tensor


class AdamW:
    """AdamW over groups that share all but the learning rate; its state is there from the start.

    Attributes:
        count: () int64 on the host, steps taken.

    Args:
        groups: group name to parameters by name.
        betas: decays of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        groups: Mapping[str, Mapping[str, Tensor]],
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        self.groups = {group: dict(parameters) for group, parameters in groups.items()}
        everything = {n: p for parameters in self.groups.values() for n, p in parameters.items()}
        self.first = {name: torch.zeros_like(p) for name, p in everything.items()}
        self.second = {name: torch.zeros_like(p) for name, p in everything.items()}
        self.count = torch.zeros((), dtype=torch.int64)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    @property
    def steps(self) -> int:
        """Steps taken."""
        return int(self.count)

    @steps.setter
    def steps(self, taken: int) -> None:
        self.count.fill_(taken)

    @torch.no_grad()
    def step(self, lr: Mapping[str, float]) -> None:
        """Apply the gradients in ``grad``, with each group's learning rate."""
        self.steps += 1
        for group, parameters in self.groups.items():
            gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
            if gradients:
                live = [parameters[name] for name in gradients]
                self._step_group(live, list(gradients.values()), list(gradients), lr[group])

    def _step_group(
        self, parameters: list[Tensor], gradients: list[Tensor], names: list[str], lr: float
    ) -> None:
        beta1, beta2 = self.betas
        first = [self.first[name] for name in names]
        second = [self.second[name] for name in names]
        torch._foreach_mul_(parameters, 1 - lr * self.weight_decay)
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        denominator = torch._foreach_sqrt(second)
        torch._foreach_div_(denominator, (1 - beta2**self.steps) ** 0.5)
        torch._foreach_add_(denominator, self.eps)
        torch._foreach_addcdiv_(parameters, first, denominator, -lr / (1 - beta1**self.steps))
