"""How noisy gradients and losses are: signals that agents may read, and none of this project does.

They cost what they read: the momentum's two signals take a pass over the banks' gradients and
momenta each. An agent that reads one must be told to ``artifact.submission.bundle``, which leaves
this module out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from runtime.ranks import World
from training.parallel import Shards


class Momentum:
    """Products of the banks' gradients with their momenta, which the step has not moved yet.

    Args:
        shards: this rank's parameters; a bank without a gradient is left out.
        momentum: of this rank's part of each bank.
        beta: () fp32, the lever "momentum".
    """

    def __init__(self, shards: Shards, momentum: Mapping[str, Tensor], beta: Tensor) -> None:
        self.shards, self.momentum, self.beta = shards, momentum, beta
        self.empty = torch.zeros(3, device=shards.world.device)

    def products(self) -> Tensor:
        """Return g.M, g.g and M.M, (3,) fp32, the same bits on every rank."""
        found = self.empty.clone()
        for name, momentum in self.momentum.items():
            if (gradient := self.shards.own[name].grad) is not None:
                g, m = gradient.reshape(-1), momentum.reshape(-1)
                found += torch.stack((torch.dot(g, m), torch.dot(g, g), torch.dot(m, m)))
        return self.shards.world.sum_(found) if self.shards.banks else found

    def cosine(self) -> Tensor:
        """Return the cosine of gradient and momentum; NaN before the first step."""
        both, gradient, momentum = self.products()
        return both / (gradient * momentum).sqrt()

    def noise(self) -> Tensor:
        """Return the squares of the gradient's noise and of its signal, (2,).

        The momentum is a sum of gradients with weights that add up to ``1 / (1 - beta)``. Their
        noise is independent of this step's, so that g.M is the squared signal times that.
        """
        both, gradient, _ = self.products()
        signal = both * (1 - self.beta)
        return torch.stack((gradient - signal, signal))


class WindowSpread:
    """Standard deviation, over ranks, of the windows' mean nats in a batch.

    Args:
        world: the ranks.
        windows: as of ``MicroBatches``.
    """

    def __init__(self, world: World, windows: Tensor) -> None:
        self.world, self.windows = world, windows

    def __call__(self) -> Tensor:
        mean, squares = self.world.sum_(self.windows.clone())
        return (squares - mean * mean).clamp(min=0).sqrt().float()
