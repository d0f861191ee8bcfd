"""Forward and backward of one micro-batch: launched one by one, or replayed as a CUDA graph."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# NCCL's own thread asks for the state of its events at any time, which would end a global capture.
CAPTURE_MODE = "thread_local"
EAGER_CALLS = 2  # that compile kernels and let libraries allocate, before a graph is captured

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Beside = Callable[[], AbstractContextManager[None]]


class MicroBatches:
    """Adds gradients of micro-batches into ``.grad``, launching every kernel from the host.

    Args:
        forward: of tokens and targets (B, T); returns loss () and each token's nats.
        parameters: whose gradients are wanted.
        share: of the whole batch that a micro-batch is.
        at_last: entered around the backward pass of a step's last micro-batch, as a reduction of
            gradients that are whole then; None: that one is like any other.
    """

    def __init__(
        self,
        forward: Forward,
        parameters: Sequence[Tensor],
        share: float,
        at_last: Beside | None = None,
    ) -> None:
        self.forward, self.parameters, self.share = forward, parameters, share
        self.at_last = at_last
        # Of the graphs' memory, which a graph of what follows may share.
        self.pool: Any = None

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def add(self, tokens: Tensor, targets: Tensor, last: bool = False) -> Tensor:
        """Add one micro-batch's gradients; its share of the mean nats, () fp32."""
        loss, nats = self.forward(tokens, targets)
        with self.at_last() if self.at_last and last else nullcontext():
            (loss * self.share).backward()
        return nats.mean() * self.share

    def all(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Gradients of a step's micro-batches in ``.grad``; their mean nats, () fp32."""
        self.clear()
        before, final = batches[:-1], batches[-1]
        nats = [self.add(*batch) for batch in before]
        return torch.stack([*nats, self.add(*final, last=True)]).sum()

    @property
    def steady(self) -> bool:
        """Whether gradients and nats lie where they will after every further step."""
        return False

    def close(self) -> None:
        """Let go of what only further steps would need."""


class CapturedMicroBatches(MicroBatches):
    """The same as replays of graphs: of a step's first micro-batch, of a further one, and, where
    there is something ``at_last``, of one that is last.

    The first writes gradients where the others add to them, so nobody has to clear them; both
    write to the same memory in every replay. Everything that a replay reads must stay where it was
    when captured: parameters, levers, and the buffers that tokens are copied to.
    """

    def __init__(
        self,
        forward: Forward,
        parameters: Sequence[Tensor],
        share: float,
        at_last: Beside | None = None,
    ) -> None:
        super().__init__(forward, parameters, share, at_last)
        self.calls = 0
        # Gradients are first made on a stream like the capture's, as PyTorch's notes on graphs ask.
        self.side = torch.cuda.Stream()
        # By whether it is first, and last.
        self.graphs: dict[tuple[bool, bool], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.first = True
        self.gradients: list[Tensor | None] = []
        self.tokens = self.targets = torch.empty(0)

    def clear(self) -> None:
        self.first = True
        if not self.graphs:
            super().clear()

    def all(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        self.clear()
        # Added up where the first replay's are, for the update's graph reads them there.
        nats = self.add(*batches[0], last=len(batches) == 1)
        for place, batch in enumerate(batches[1:], 2):
            nats += self.add(*batch, last=place == len(batches))
        return nats

    @property
    def steady(self) -> bool:
        return len(self.graphs) > 0

    def add(self, tokens: Tensor, targets: Tensor, last: bool = False) -> Tensor:
        first, self.first = self.first, False
        last = last and self.at_last is not None
        self.calls += 1
        # The first kind is captured first, in whatever step the eager calls end.
        if self.calls <= EAGER_CALLS or not (first or self.graphs):
            return self._add_eagerly(tokens, targets, last)
        if (first, last) not in self.graphs:
            self._capture(first, last, tokens, targets)
        self.tokens.copy_(tokens)
        self.targets.copy_(targets)
        graph, nats = self.graphs[first, last]
        graph.replay()
        # A replay writes where the capture's gradients were, whatever has become of ``.grad``.
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return nats

    def _add_eagerly(self, tokens: Tensor, targets: Tensor, last: bool) -> Tensor:
        current = torch.cuda.current_stream()
        self.side.wait_stream(current)
        with torch.cuda.stream(self.side):
            nats = super().add(tokens, targets, last)
        current.wait_stream(self.side)
        return nats

    def _capture(self, first: bool, last: bool, tokens: Tensor, targets: Tensor) -> None:
        """Record the launches of one micro-batch; the first kind must come first."""
        if first:
            MicroBatches.clear(self)
            self.tokens, self.targets = tokens.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode=CAPTURE_MODE):
            nats = super().add(self.tokens, self.targets, last)
        self.graphs[first, last] = graph, nats
        if first:
            self.gradients = [parameter.grad for parameter in self.parameters]

    def close(self) -> None:
        """Let the graphs go: NCCL's communicators end only when no graph holds them."""
        self.graphs.clear()
