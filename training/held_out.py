"""Windows at the end of the training split that no step takes, to compare weights on.

They are the same ones throughout a run, so differences between weights are paired by window.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from data.shards import TokenStream
from errors import InputError
from model.gpt import GPT
from runtime.ranks import World
from settings import Settings
from training.snapshots import holding

WINDOWS, FEWEST = 48, 4
MOST_SHARE = 0.05  # of the split


class HeldOut:
    """The windows, and the tokens that are left for training.

    Args:
        stream: the training split.
        settings: of the run; a window has ``eval_seq_len`` tokens.
        world: ranks share the windows.

    Attributes:
        rest: the tokens before the windows.
        count: number of windows.

    Raises:
        InputError: the split is too short to hold any out.
    """

    def __init__(self, stream: TokenStream, settings: Settings, world: World) -> None:
        length = settings.eval_seq_len
        self.count = min(WINDOWS, int(MOST_SHARE * len(stream)) // length)
        if self.count < FEWEST:
            raise InputError(
                f"{stream.files[0].parent}: {len(stream)} training tokens are too few to hold out "
                f"{FEWEST} windows of {length}; give more text, or no probes and no readout"
            )
        first = len(stream) - self.count * length - 1
        self.rest = stream.first(first)
        tokens = torch.from_numpy(stream.read(first, self.count * length + 1).astype("int32"))
        tokens = tokens.to(world.device)
        self._tokens = tokens[:-1].view(self.count, length)
        self._targets = tokens[1:].view(self.count, length)
        self._world, self._rows = world, max(1, settings.micro_batch_tokens // length)

    @torch.no_grad()
    def nats(self, model: GPT, weights: Mapping[str, Tensor], count: int) -> list[float]:
        """Return the mean nats a token of each of the first windows, the same on every rank.

        Args:
            model: whose weights are exchanged.
            weights: by name; empty: the model's own.
            count: of windows.
        """
        world = self._world
        found = torch.zeros(count, device=world.device)
        own = range(world.rank, count, world.size)
        with holding(model, weights, world):
            for start in range(0, len(own), self._rows):
                place = own[start : start + self._rows]
                rows = slice(place.start, place.stop, place.step)
                nats = model.score(
                    self._tokens[rows].contiguous(), self._targets[rows].contiguous()
                )
                found[rows] = nats.mean(1)
        return world.sum_(found).tolist()


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of at least two values, and its standard error."""
    count = len(values)
    mean = math.fsum(values) / count
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (count - 1) / count)


def differences(values: Sequence[float], before: Sequence[float]) -> list[float]:
    """Return value less value before, by window."""
    return [value - other for value, other in zip(values, before, strict=True)]
