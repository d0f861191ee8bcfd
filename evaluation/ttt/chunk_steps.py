"""The two steps of a chunk, scoring and learning: launch by launch, or as two CUDA graphs."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from runtime.graphs import EAGER_CALLS, CapturedStep, Graphs

Shape = tuple[int, int, int]  # rows, targets of a row, places that are read
MOST_SHAPES = 16  # that are captured; further ones run launch by launch


class ChunkSteps:
    """Captures both steps of a shape of chunks once they have run ``EAGER_CALLS`` times.

    Args:
        read: tokens and other inputs -> nats (N, S), after which ``learn`` may follow.
        learn: (tokens, known (N, S) bool) -> a tensor; learns what was read last.
        graphs: records the steps; None: every one runs launch by launch.
    """

    def __init__(
        self,
        read: Callable[..., Tensor],
        learn: Callable[[Tensor, Tensor], Tensor],
        graphs: Graphs | None,
    ) -> None:
        self.functions, self.graphs = (read, learn), graphs
        self.calls: Counter[Shape] = Counter()
        self.captured: dict[Shape, tuple[CapturedStep, CapturedStep]] = {}
        self.shape: Shape = (0, 0, 0)

    def read(self, size: int, kept: int, *inputs: Tensor) -> Tensor:
        """Score the last ``size`` targets of a chunk that reads ``kept`` places of a cache.

        Chunks of equal numbers are the same launches. Tokens are the first of the inputs.
        """
        self.shape = shape = (len(inputs[0]), size, kept)
        known = shape in self.captured or len(self.captured) == MOST_SHAPES
        if self.graphs and not known and self.calls[shape] >= EAGER_CALLS:
            self.captured[shape] = self._capture(self.graphs, size, inputs)
        return self._step(0, *inputs)

    def learn(self, tokens: Tensor, known: Tensor) -> None:
        """Learn the chunk."""
        self._step(1, tokens, known)
        self.calls[self.shape] += 1

    def _step(self, which: int, *inputs: Tensor) -> Tensor:
        if self.shape in self.captured:
            return self.captured[self.shape][which](*inputs)
        call = partial(self.functions[which], *inputs)
        return self.graphs.eagerly(call) if self.graphs else call()

    def _capture(
        self, graphs: Graphs, size: int, inputs: tuple[Tensor, ...]
    ) -> tuple[CapturedStep, CapturedStep]:
        """Record both steps; what the first one leaves, the second one reads at each replay."""
        read, learn = (CapturedStep(function) for function in self.functions)
        tokens, *others = (tensor.clone() for tensor in inputs)
        read.capture(graphs, tokens, *others)
        learn.capture(graphs, tokens, tokens.new_ones((len(tokens), size), dtype=torch.bool))
        return read, learn

    def close(self) -> None:
        """Release the graphs."""
        self.captured.clear()


class ReplayedByShape:
    """Captures a function for each key once it has run ``EAGER_CALLS`` times with it.

    Args:
        function: tensors -> a tensor, by the same launches for equal keys.
        graphs: which may be replayed between the calls, because these have a memory pool of their
            own. None: every call runs launch by launch.
    """

    def __init__(self, function: Callable[..., Tensor], graphs: Graphs | None) -> None:
        self.function, self.graphs = function, graphs and graphs.apart()
        self.calls: Counter[Shape] = Counter()
        self.captured: dict[Shape, CapturedStep] = {}

    def __call__(self, key: Shape, *inputs: Tensor) -> Tensor:
        """Return the function's result; a replay writes it where the last one of the key did."""
        if self.graphs is None:
            return self.function(*inputs)
        if key not in self.captured:
            if self.calls[key] < EAGER_CALLS or len(self.captured) == MOST_SHAPES:
                self.calls[key] += 1
                return self.graphs.eagerly(partial(self.function, *inputs))
            self.captured[key] = step = CapturedStep(self.function)
            step.capture(self.graphs, *(tensor.clone() for tensor in inputs))
        return self.captured[key](*inputs)
