"""The update after the backward pass: clip, optimizer, averages; once captured, one graph."""

from typing import Protocol

import torch
from torch import Tensor

from kernels.optimizer.state import State
from runtime.graphs import CapturedStep, Graphs
from training.averaging import Averaging
from training.measures import Measures
from training.parallel import Shards


class StepOptimizer(Protocol):
    """What ``FusedOptimizer`` and ``PlainOptimizer`` offer."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the rows of ``statistics``."""
        ...

    @property
    def norm(self) -> Tensor:
        """() fp32, the gradients' global norm before the latest step's clip."""
        ...

    @property
    def skipped(self) -> Tensor:
        """() int32, steps that were not applied."""
        ...

    @property
    def statistics(self) -> Tensor:
        """(groups, fields) fp32 of the latest step."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the columns of ``statistics``, some of `kernels.optimizer.statistics.FIELDS`."""
        ...

    def step(self) -> None:
        """Apply the gradients in ``.grad``, and move exponential averages.

        A step whose gradient norm is not finite, or above the lever ``skip_norm``, changes nothing
        but ``skipped``.
        """
        ...

    def find_gradients(self) -> object:
        """Let a replay of ``step`` find the gradients in ``.grad``, or that there is none."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return live state by name, for checkpoints."""
        ...

    def states(self) -> dict[str, State]:
        """Return what ``tensors`` are of whole parameters, by the same names."""
        ...


class Update:
    """Sums the small gradients and the nats over ranks, and applies all gradients.

    Args:
        optimizer: of this rank's parameters.
        averaging: takes its snapshots after each step.
        shards: this rank's parameters; the banks' gradients are already reduced over ranks.
        nats: () fp32, which holds this rank's part of the batch's mean.
        measures: of the signals that are read.
    """

    def __init__(
        self,
        optimizer: StepOptimizer,
        averaging: Averaging,
        shards: Shards,
        nats: Tensor,
        measures: Measures,
    ) -> None:
        self.optimizer, self.averaging, self.shards = optimizer, averaging, shards
        self.nats, self.measures = nats, measures
        self._step = CapturedStep(self._launch)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups whose statistics a step returns."""
        return self.optimizer.groups

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of these statistics."""
        return self.optimizer.fields

    def __call__(self, step: int) -> Tensor:
        """Update, and return the step's numbers.

        Args:
            step: number of this step, from 1.

        Returns:
            (3 + groups x fields + measured,) fp32: the batch's mean nats, the gradients' global
            norm before the clip, steps skipped so far, each group's statistics, and the numbers of
            ``measures``. A replay writes them where the last one did.
        """
        if self._step.captured:
            self.shards.place_small()
            self.optimizer.find_gradients()
        numbers = self._step()
        self.averaging.take(step)
        return numbers

    def capture(self, graphs: Graphs) -> None:
        """Record the update for the gradients that lie in ``.grad``, which must have run on them.

        A first run copies the gradients' addresses to the device, which a graph cannot.
        """
        self._step.capture(graphs)

    def _launch(self) -> Tensor:
        optimizer = self.optimizer
        nats = self.shards.reduce_small(self.nats)
        measured = self.measures()  # before the clip changes the gradients
        optimizer.step()
        self.shards.gather()
        counted = torch.stack((nats, optimizer.norm, optimizer.skipped.to(nats)))
        return torch.cat((counted, optimizer.statistics.flatten(), *measured))

    def tensors(self) -> dict[str, Tensor]:
        """Return live state by name, for checkpoints."""
        return self.optimizer.tensors()

    def states(self) -> dict[str, State]:
        """Return what ``tensors`` are of whole parameters, by the same names."""
        return self.optimizer.states()

    def close(self) -> None:
        """Release the graph; further steps launch every kernel."""
        self._step.release()
