"""Other weights for a while: a copy to restore after a divergence, and weights to be scored."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from model.gpt import GPT
from model.parameters import exported
from runtime.ranks import World
from training.state import TrainingState


class Snapshots:
    """The latest snapshot of weights and moments, in host memory, to be restored.

    A snapshot has no averages, because it costs the device the time to read its bytes; averages
    restart from the restored weights.

    Args:
        state: whose weights and moments are copied.
        stream: for the copies; None on a CPU.
    """

    def __init__(self, state: TrainingState, stream: torch.cuda.Stream | None) -> None:
        self._state, self._stream = state, stream
        self._buffers: dict[str, Tensor] = {}
        self._taken = False

    def allocate_buffers(self) -> None:
        """Allocate host memory for a snapshot, once: pinned memory if there is a GPU.

        0.22 GB for preset ``seed``, which takes longer than a step, so do it before the first one.
        """
        if not self._buffers:
            pinned = self._stream is not None
            self._buffers = {
                name: torch.empty_like(tensor, device="cpu", pin_memory=pinned)
                for name, tensor in self._state.weights_and_moments().items()
            }

    def take(self) -> None:
        """Copy weights and moments to the host's memory.

        On a GPU the copy overlaps with the next step's forward and backward passes, which only
        read the weights. PCIe limits its pace, so it takes little of the device's bandwidth.
        """
        self.allocate_buffers()
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for name, tensor in self._state.weights_and_moments().items():
                self._buffers[name].copy_(tensor, non_blocking=True)
        self._taken = True

    def tensors(self) -> dict[str, Tensor]:
        """Return the latest snapshot by name, whole: every rank must call it; empty if none."""
        if not self._taken:
            return {}
        self.wait()
        now = self._state.weights_and_moments()
        own = {name: copy.to(now[name].device) for name, copy in self._buffers.items()}
        return self._state.shards.join(own, self._state.update.states())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Make what ``tensors`` returned, on any number of ranks, the latest snapshot."""
        self.allocate_buffers()
        own = self._state.shards.cut(tensors, self._state.update.states())
        for name, copy in self._buffers.items():
            copy.copy_(own[name])
        self._taken = True

    def weights(self) -> dict[str, Tensor]:
        """Return the latest snapshot's weights by name, whole: every rank must call it.

        Empty if no snapshot was taken.
        """
        if not self._taken:
            return {}
        self.wait()
        shards = self._state.shards
        return shards.join(
            {
                name: self._buffers[f"model.{name}"].to(own.device)
                for name, own in shards.own.items()
            }
        )

    def wait(self) -> None:
        """Let the device finish all copies before it changes what they read."""
        if self._stream:
            torch.cuda.current_stream().wait_stream(self._stream)

    def restore(self) -> None:
        """Restore the latest snapshot; averages restart from it, and the data goes on.

        Raises:
            KeyError: there is no snapshot.
        """
        if not self._taken:
            raise KeyError("no snapshot was taken")
        self.wait()
        for name, tensor in self._state.weights_and_moments().items():
            tensor.copy_(self._buffers[name])
        self._state.shards.gather()
        self._state.averaging.restart()


@contextmanager
def holding(model: GPT, weights: Mapping[str, Tensor], world: World) -> Iterator[None]:
    """Let the model have other weights in this context.

    Args:
        model: whose weights are exchanged.
        weights: by name; parameters that are not named stay.
        world: all ranks receive the weights that rank 0 is given.
    """
    live = exported(model)
    before = {name: parameter.detach().clone() for name, parameter in live.items()}
    with torch.no_grad():
        for name, parameter in live.items():
            parameter.copy_(weights.get(name, parameter))
            world.broadcast_(parameter.data)
    yield
    with torch.no_grad():
        for name, parameter in live.items():
            parameter.copy_(before[name])
