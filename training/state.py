"""The state of a run that a checkpoint holds."""

from collections.abc import Mapping

import torch
from torch import Tensor

from data.loader import BatchLoader
from errors import InputError
from training.averaging import Averaging
from training.parallel import Shards
from training.update import Update


class TrainingState:
    """Weights, moments, averages, random generators and the position in the data.

    Args:
        shards: this rank's parameters.
        update: has the moments.
        averaging: has the averages.
        loader: has the position.
    """

    def __init__(
        self,
        shards: Shards,
        update: Update,
        averaging: Averaging,
        loader: BatchLoader,
    ) -> None:
        self.shards, self.update = shards, update
        self.averaging, self.loader = averaging, loader

    def weights_and_moments(self) -> dict[str, Tensor]:
        """Return this rank's live weights and moments by name; a run has them from the start."""
        own = {f"model.{name}": tensor.detach() for name, tensor in self.shards.own.items()}
        return own | self.update.tensors()

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, whole: every rank must call it. On one rank they are live."""
        own = self.weights_and_moments() | self.averaging.tensors()
        return self.shards.join(own, self.update.states()) | random_state()

    def numbers(self) -> dict[str, int]:
        """Return all state that is numbers."""
        return {"tokens": self.loader.position, "noise": self.loader.noise}

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, int]) -> None:
        """Restore what ``tensors`` and ``numbers`` returned on any number of ranks, bit for bit.

        Raises:
            InputError: they are of another network.
        """
        tensors = self.shards.cut(tensors, self.update.states())
        for name, tensor in self.weights_and_moments().items():
            if name not in tensors or tensors[name].shape != tensor.shape:
                raise InputError(
                    f"the checkpoint's {name} does not fit these settings; resume with those that "
                    "the run was started with"
                )
            tensor.copy_(tensors[name])
        self.shards.gather()
        self.averaging.load(tensors)
        self.loader.position = numbers["tokens"]
        self.loader.noise = numbers.get("noise", 0)
        torch.set_rng_state(tensors["random.cpu"].cpu())
        if "random.cuda" in tensors and self.shards.world.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"].cpu())


def random_state() -> dict[str, Tensor]:
    """Return the states of the random generators, uint8."""
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states
