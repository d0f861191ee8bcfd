"""What follows the backward pass: clip, optimizer, averages. On a GPU a few kernels, replayed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from runtime.graphs import CAPTURE_MODE
from training.averaging import Averaging
from training.device_levers import Levers
from training.fused_optimizer import FusedOptimizer
from training.optimizer import Optimizer, clip_
from training.parallel import Shards


class Update:
    """Applies the gradients in ``.grad``, launching each PyTorch operation from the host.

    A step whose gradient norm is not finite, or above the lever ``skip_norm``, changes nothing but
    ``skipped``.

    Args:
        optimizer: of what this rank learns.
        averaging: moved after each step that is applied.
        levers: the learning-rate scale and the momentum are the host's, the clip the device's.
        shards: what this rank learns, the norm over all ranks; the banks' gradients are reduced.
    """

    groups: tuple[str, ...] = ()

    def __init__(
        self, optimizer: Optimizer, averaging: Averaging, levers: Levers, shards: Shards
    ) -> None:
        self.optimizer, self.averaging, self.levers = optimizer, averaging, levers
        self.shards = shards
        self.skipped = torch.zeros((), dtype=torch.int32)

    def __call__(self, nats: Tensor, step: int, steady: bool = False) -> Tensor:
        """Sum over ranks what is not yet, and apply the gradients.

        Args:
            nats: () fp32, of the batch's mean what this rank has.
            step: that is taken, from 1.
            steady: gradients and ``nats`` lie where they will in every further call.

        Returns:
            (3 + 6 groups,) fp32: ``nats``, the gradients' global norm before the clip, steps
            skipped so far, and each group's statistics as ``kernels.optimizer.statistics.FIELDS``.
        """
        nats = self.shards.reduce_small(nats)
        gradients = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        norm = clip_(gradients, self.levers["clip"], self.shards.norm())
        if norm <= self.levers["skip_norm"]:
            values = self.levers.values
            self.optimizer.step(values["lr_scale"], values["momentum"])
            self.averaging.update(step)
        else:
            self.skipped += 1
        self.shards.gather()
        return torch.stack((nats, norm, self.skipped.to(norm)))

    def tensors(self) -> dict[str, Tensor]:
        """Live state by name, for checkpoints."""
        return self.optimizer.tensors()

    def close(self) -> None:
        """Let go of what only further steps would need."""


class FusedUpdate:
    """The same by ``FusedOptimizer``; from the second call with ``steady`` gradients on a replay.

    Args:
        optimizer: moves exponential averages itself.
        averaging: any other is asked after each step.
        shards: as ``Update``'s.
        pool: of the graphs' memory; None: never replay.
    """

    def __init__(
        self, optimizer: FusedOptimizer, averaging: Averaging, shards: Shards, pool: Any
    ) -> None:
        self.optimizer, self.averaging = optimizer, averaging
        self.shards, self.pool = shards, pool
        self.groups = optimizer.groups
        self._replay: Callable[[], None] | None = None
        self._settled = False
        self._numbers = torch.empty(0)

    def __call__(self, nats: Tensor, step: int, steady: bool = False) -> Tensor:
        """As ``Update``."""
        if not (steady and self.pool):
            numbers = self._launch(nats)
        elif self._replay is None and not self._settled:
            # The optimizer learns where the gradients lie, which no graph could.
            self._settled, numbers = True, self._launch(nats)
        else:
            if self._replay is None:
                self._capture(nats)
            assert self._replay is not None
            self._replay()
            numbers = self._numbers
        if not self.averaging.exponential:
            self.averaging.update(step)
        return numbers

    def _launch(self, nats: Tensor) -> Tensor:
        optimizer = self.optimizer
        nats = self.shards.reduce_small(nats)
        optimizer.step()
        self.shards.gather()
        counted = torch.stack((nats, optimizer.norm, optimizer.skipped.to(nats)))
        return torch.cat((counted, optimizer.statistics.flatten()))

    def _capture(self, nats: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode=CAPTURE_MODE):
            self._numbers = self._launch(nats)
        self._replay = graph.replay

    def tensors(self) -> dict[str, Tensor]:
        """Live state by name, for checkpoints."""
        return self.optimizer.tensors()

    def close(self) -> None:
        """Let the graph go; further steps would be launched."""
        self._replay = self.pool = None
