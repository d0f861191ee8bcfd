"""Two published guards against spikes, beside the trainer's own clip; all on the device.

Their constants are the papers'. Neither waits for the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class ZClip:
    """Clips the global norm by its z-score (arXiv:2504.02507).

    A norm that is more than ``most`` deviations over its mean is cut to ``most^2 / z`` deviations
    over it. Mean and variance are exponential, of the norms after the cut.

    Args:
        decay: of mean and variance a step.
        most: z-score from which on a norm is cut.
        warm_up: steps that only measure.
    """

    def __init__(self, decay: float = 0.97, most: float = 2.5, warm_up: int = 25) -> None:
        self.decay, self.most, self.warm_up = decay, most, warm_up
        self._seen: list[Tensor] = []
        self._mean = self._variance = torch.zeros(())

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        """Cut the gradients of a step in place."""
        norm = torch.stack(torch._foreach_norm(list(gradients))).norm()
        if len(self._seen) < self.warm_up:
            self._seen.append(norm.clone())
            if len(self._seen) == self.warm_up:
                self._begin(torch.stack(self._seen))
            return
        deviation = self._variance.sqrt() + 1e-6
        z = (norm - self._mean) / deviation
        cut = self._mean + self.most**2 / z.clamp(min=self.most) * deviation
        kept = torch.where(z > self.most, cut, norm)
        finite = norm.isfinite()
        torch._foreach_mul_(list(gradients), torch.where(finite, kept / (norm + 1e-12), 1.0))
        moved = self._mean + (1 - self.decay) * (kept - self._mean)
        spread = self._variance + (1 - self.decay) * ((kept - moved).square() - self._variance)
        self._mean = torch.where(finite, moved, self._mean)
        self._variance = torch.where(finite, spread, self._variance)

    def _begin(self, norms: Tensor) -> None:
        finite = norms[norms.isfinite()]
        self._mean, self._variance = finite.mean(), finite.var(correction=0)


class AdaGC:
    """Clips each tensor's norm by its own past (arXiv:2502.11034).

    Args:
        most: times the exponential mean of its norms that a tensor's may be.
        decay: of that mean a step.
        warm_up: steps that clip the global norm to ``first``, and keep each tensor's least norm.
        first: bound of the global norm in the warm-up.
    """

    def __init__(
        self, most: float = 1.05, decay: float = 0.98, warm_up: int = 100, first: float = 1.0
    ) -> None:
        self.most, self.decay, self.warm_up, self.first = most, decay, warm_up, first
        self._steps, self._means = 0, torch.zeros(())

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor]) -> None:
        """Cut the gradients of a step in place."""
        norms = torch.stack(torch._foreach_norm(list(gradients)))
        warm = self._steps < self.warm_up
        bounds = self.first * norms / norms.norm() if warm else self.most * self._means
        share = torch.where(norms.isfinite(), (bounds / (norms + 1e-12)).clamp(max=1.0), 1.0)
        torch._foreach_mul_(list(gradients), list(share.unbind()))
        cut = share * norms
        if not self._steps:
            means = cut
        elif warm:
            means = torch.minimum(self._means, cut)
        else:
            means = self.decay * self._means + (1 - self.decay) * cut
        self._means = torch.where(cut.isfinite(), means, self._means) if self._steps else means
        self._steps += 1
