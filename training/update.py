"""The update after the backward pass: clip, optimizer, averages; on a GPU one graph."""

from typing import Any

import torch
from torch import Tensor

from runtime.graphs import Captured, capture
from training.averaging import Averaging
from training.device_levers import DeviceLevers
from training.fused_optimizer import FusedOptimizer
from training.optimizer import Optimizer, clip_
from training.parallel import Shards


class Update:
    """Applies the gradients in ``.grad``, one PyTorch operation after the other.

    A step whose gradient norm is not finite, or above the lever ``skip_norm``, changes nothing but
    ``skipped``.

    Args:
        optimizer: of this rank's parameters.
        averaging: updated after each step that is applied.
        levers: learning-rate scale and momentum are read on the host, the others on the device.
        shards: this rank's parameters; the banks' gradients are already reduced over ranks.
    """

    groups: tuple[str, ...] = ()

    def __init__(
        self, optimizer: Optimizer, averaging: Averaging, levers: DeviceLevers, shards: Shards
    ) -> None:
        self.optimizer, self.averaging, self.levers = optimizer, averaging, levers
        self.shards = shards
        self.skipped = torch.zeros((), dtype=torch.int32)

    def __call__(self, nats: Tensor, step: int, fixed: bool = False) -> Tensor:
        """Sum the small gradients and the nats over ranks, and apply all gradients.

        Args:
            nats: () fp32, this rank's part of the batch's mean.
            step: number of this step, from 1.
            fixed: whether gradients and ``nats`` keep these addresses from now on, so that the
                update can be captured.

        Returns:
            (3 + 6 groups,) fp32: ``nats``, the gradients' global norm before the clip, steps
            skipped so far, and each group's statistics as ``kernels.optimizer.statistics.FIELDS``.
        """
        nats = self.shards.reduce_small(nats)
        gradients = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        norm = clip_(gradients, self.levers["clip"], self.shards.norm())
        if norm <= self.levers["skip_norm"]:
            value = self.levers.value
            self.optimizer.step(value("lr_scale"), value("momentum"))
            self.averaging.update(step)
        else:
            self.skipped += 1
        self.shards.gather()
        return torch.stack((nats, norm, self.skipped.to(norm)))

    def tensors(self) -> dict[str, Tensor]:
        """Return live state by name, for checkpoints."""
        return self.optimizer.tensors()

    def close(self) -> None:
        """Release what only further steps need."""


class FusedUpdate:
    """The same by ``FusedOptimizer``; replays a graph from the second call with fixed addresses on.

    Args:
        optimizer: updates exponential averages itself.
        averaging: any other kind is updated after each step.
        shards: as ``Update``'s.
        pool: memory pool of the graphs; None: never capture.
    """

    def __init__(
        self, optimizer: FusedOptimizer, averaging: Averaging, shards: Shards, pool: Any
    ) -> None:
        self.optimizer, self.averaging = optimizer, averaging
        self.shards, self.pool = shards, pool
        self.groups = optimizer.groups
        self._captured: Captured | None = None
        self._knows_addresses = False

    def __call__(self, nats: Tensor, step: int, fixed: bool = False) -> Tensor:
        """As ``Update``; a replay writes its numbers where the last one did."""
        if not (fixed and self.pool):
            numbers = self._launch(nats)
        elif self._captured is None and not self._knows_addresses:
            # The first launch copies the gradients' addresses to the device; a graph cannot.
            self._knows_addresses, numbers = True, self._launch(nats)
        else:
            if self._captured is None:
                self._captured = capture(lambda: self._launch(nats), self.pool)
            numbers = self._captured.replay()
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

    def tensors(self) -> dict[str, Tensor]:
        """Return live state by name, for checkpoints."""
        return self.optimizer.tensors()

    def close(self) -> None:
        """Release the graph; further steps launch every kernel."""
        self._captured = self.pool = None
