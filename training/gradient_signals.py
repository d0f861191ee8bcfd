"""Sizes and noise of gradients and losses: signals that agents may read, and none of ours does.

They cost what they read: the momentum's two signals take a pass over the banks' gradients and
momenta each. An agent that reads one must be told to ``artifact.submission.bundle``, which leaves
this module out.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import Architecture
from model.parameters import parameters
from runtime.ranks import World
from training.measures import Measure, Measured
from training.parallel import Shards


class LayerGradientNorms:
    """Norms of the gradients of each layer: of all parameters that are stacked by layer.

    Args:
        config: of the network.
        shards: this rank's parameters.
    """

    def __init__(self, config: Architecture, shards: Shards) -> None:
        self.layers, self.shards = config.num_layers, shards
        device = shards.world.device
        # Each slice has its own slot, (number of the layer's slice, layer), so that sums have one
        # order. A rank leaves the slots of other ranks' slices empty.
        self.slots: dict[str, Tensor] = {}
        taken = [0] * self.layers
        for spec in parameters(config):
            layers = [of.layer for of in spec.slices]
            slots = []
            for layer in layers:
                slots.append(self.layers * taken[layer] + layer)
                taken[layer] += 1
            if spec.name in shards.banks:
                self.slots[spec.name] = shards.banks[spec.name].cut(torch.tensor(slots)).to(device)
            elif slots and shards.world.is_main:  # every rank has the same gradient
                self.slots[spec.name] = torch.tensor(slots, device=device)
        self.empty = torch.zeros(max(taken) * self.layers, device=device)

    def __call__(self) -> Tensor:
        """Return the norms, (layers,) fp32, the same bits on every rank."""
        squares = self.empty.clone()
        for name, slots in self.slots.items():
            if (gradient := self.shards.own[name].grad) is not None:
                rows, *rest = gradient.shape
                norms = torch.linalg.vector_norm(gradient.reshape(rows, math.prod(rest)), dim=1)
                squares.index_copy_(0, slots, norms.square())
        sums = squares.view(-1, self.layers).sum(0)
        return self.shards.world.sum_(sums).sqrt()


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


def layer_gradient_norms(of: Measured) -> Measure:
    """Return the measure of each layer's gradient."""
    return LayerGradientNorms(of.config, of.shards)


def momentum_cosine(of: Measured) -> Measure:
    """Return the measure of the angle of gradients and momenta."""
    return Momentum(of.shards, of.momentum, of.beta).cosine


def noise_scale(of: Measured) -> Measure:
    """Return the measure of the gradients' noise."""
    return Momentum(of.shards, of.momentum, of.beta).noise


def window_spread(of: Measured) -> Measure:
    """Return the measure of the windows' spread."""
    assert of.windows is not None
    return WindowSpread(of.shards.world, of.windows)
