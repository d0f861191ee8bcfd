"""AdamW or SGD on adapters of which each document has its own: a few launches for all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from settings.ttt import TttSettings

BETA, EPS = 0.99, 1e-10  # of squared gradients; gradients themselves have no momentum


class RowOptimizer:
    """Updates the first rows of banks. Rows that do not learn stay as they are, bit for bit.

    Args:
        banks: (visits, D, ...) fp32 each, of D rows.
        settings: optimizer, momentum, decay.

    Attributes:
        rate: () fp32, the learning rate.
        memory: of each bank, squared gradients or momentum.
    """

    def __init__(self, banks: Sequence[Tensor], settings: TttSettings) -> None:
        self.banks, self.settings = banks, settings
        self.memory = [torch.zeros_like(bank) for bank in banks]
        self.steps = banks[0].new_zeros((), dtype=torch.float64)
        self.rate = banks[0].new_zeros(())

    def reset(self) -> None:
        """Forget all steps."""
        self.steps.zero_()
        torch._foreach_zero_(self.memory)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learns: Tensor) -> None:
        """Take a step.

        Args:
            gradients: (visits, N, ...) of the first N rows; 0 in rows that do not learn.
            learns: (N, 1, 1) bool.
        """
        banks, memory = (
            [each[:, : len(learns)] for each in of] for of in (self.banks, self.memory)
        )
        given = [torch.empty_like(a).copy_(b) for a, b in zip(banks, gradients, strict=True)]
        if self.settings.ttt_lora_weight_decay:
            kept = 1 - self.rate * self.settings.ttt_lora_weight_decay * learns
            for bank in banks:
                bank *= kept
        if self.settings.ttt_lora_optimizer == "adam":
            self.steps += 1
            torch._foreach_mul_(memory, BETA)
            torch._foreach_addcmul_(memory, given, given, 1 - BETA)
            spread = torch._foreach_sqrt(memory)
            torch._foreach_div_(spread, (1 - BETA**self.steps).sqrt().float())
            torch._foreach_add_(spread, EPS)
            torch._foreach_div_(spread, self.rate)  # infinite, if that is 0
            torch._foreach_addcdiv_(banks, given, spread, -1.0)
        else:
            torch._foreach_mul_(memory, self.settings.ttt_momentum)
            torch._foreach_add_(memory, given)
            step = -self.rate * learns
            torch._foreach_add_(banks, [step * each for each in memory])
