"""The optimizer's step by PyTorch operations, which the host decides on."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kernels.optimizer.reference import lean_
from kernels.optimizer.state import State
from training.averaging import Averaging
from training.device_levers import DeviceLevers
from training.optimizer import Optimizer, clip_
from training.parallel import Shards


class PlainOptimizer:
    """Clips and applies gradients, and moves exponential averages: ``FusedOptimizer`` on a CPU.

    Attributes:
        groups: names of the banks if they are measured.
        fields: the statistics of each: squares of its update and of its new weights.
        norm, skipped, statistics: as ``FusedOptimizer``'s.

    Args:
        optimizer: of this rank's parameters.
        averaging: its exponential averages move with each step that is applied.
        levers: learning-rate scale and momentum are read on the host, the others on the device.
        shards: this rank's parameters.
        measured: whether updates are compared with weights, which takes copies of the banks.
    """

    fields = ("update", "weight")

    def __init__(
        self,
        optimizer: Optimizer,
        averaging: Averaging,
        levers: DeviceLevers,
        shards: Shards,
        measured: bool = False,
    ) -> None:
        self._optimizer, self._averaging = optimizer, averaging
        self._levers, self._shards = levers, shards
        self._banks = optimizer.muon.banks if measured else {}
        self.groups = tuple(self._banks)
        self.norm, self.statistics = torch.zeros(()), torch.zeros(0)
        self.skipped = torch.zeros((), dtype=torch.int32)

    def step(self) -> None:
        """Apply the gradients in ``.grad``; a step that is skipped changes only ``skipped``."""
        optimizer, levers = self._optimizer, self._levers
        gradients = [p.grad for p in optimizer.parameters if p.grad is not None]
        self.norm = clip_(gradients, levers["clip"], self._shards.norm())
        before = {name: bank.detach().clone() for name, bank in self._banks.items()}
        if self.norm <= levers["skip_norm"]:
            optimizer.step(levers.value("lr_scale"), levers.value("momentum"))
            self._averaging.move(levers.value("averaging_decay"))
            if lean := levers.value("lean"):
                lean_(self._shards.own, self._averaging.exponential, lean)
        else:
            self.skipped += 1
        if before:
            self.statistics = self._compared(before)

    def _compared(self, before: Mapping[str, Tensor]) -> Tensor:
        """Return the statistics of a step before which the banks were these."""
        rows = [
            torch.stack(((bank - before[name]).square().sum(), bank.square().sum()))
            for name, bank in self._banks.items()
        ]
        found = torch.stack(rows).detach()
        return self._shards.world.sum_(found) if self._shards.banks else found

    def find_gradients(self) -> None:
        """Do nothing, because each step finds them by itself."""

    def tensors(self) -> dict[str, Tensor]:
        """Return live state by name, for checkpoints."""
        return self._optimizer.tensors()

    def states(self) -> dict[str, State]:
        """Return what ``tensors`` are of whole parameters, by the same names."""
        return self._optimizer.states()
