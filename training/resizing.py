"""Weights that are far larger than a network begins with go back to their first size."""

import math

import torch

from model.config import Architecture
from model.parameters import Orthogonal, parameters
from training.parallel import Shards

LARGE = 4.0  # norms of a first matrix


@torch.no_grad()
def shrink(config: Architecture, shards: Shards) -> None:
    """Give matrices of banks that are ``LARGE`` times their first norm this norm again.

    Matrices that begin at zero stay.

    Args:
        config: of the network.
        shards: this rank's parameters; the caller gathers them.
    """
    for spec in parameters(config):
        if not (spec.stacks and isinstance(spec.init, Orthogonal)):
            continue
        count, *matrix = spec.shape
        first = torch.full((count,), math.sqrt(min(matrix)))
        first[count - spec.init.zeros :] = math.inf
        if spec.name in shards.banks:
            first = shards.banks[spec.name].cut(first)
        own = shards.own[spec.name]
        first, norms = first.to(own), torch.linalg.vector_norm(own, dim=(1, 2))
        own.mul_(torch.where(norms > LARGE * first, first / norms, 1.0)[:, None, None])
