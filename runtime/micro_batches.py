"""Gradients of micro-batches: launched kernel by kernel, or replayed as CUDA graphs."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from runtime.graphs import Captured, capture

EAGER_CALLS = 2  # before the first capture: kernels are compiled and libraries allocate

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Overlap = Callable[[], AbstractContextManager[None]]


class MicroBatches:
    """Adds the gradients of micro-batches to ``.grad``; launches every kernel from the host.

    Args:
        forward: takes tokens and targets (B, T); returns the loss () and each token's nats.
        parameters: whose gradients are computed.
        fraction: of the whole batch that one micro-batch is.
        at_last: context of the backward pass of a step's last micro-batch, in which the gradients
            become complete, for example to reduce them over ranks; None: no such context.
    """

    def __init__(
        self,
        forward: Forward,
        parameters: Sequence[Tensor],
        fraction: float,
        at_last: Overlap | None = None,
    ) -> None:
        self.forward, self.parameters, self.fraction = forward, parameters, fraction
        self.at_last = at_last
        # Memory pool of the graphs, which the optimizer's graph may share.
        self.pool: Any = None

    def clear(self) -> None:
        """Remove the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def add(self, tokens: Tensor, targets: Tensor, last: bool = False) -> Tensor:
        """Add one micro-batch's gradients; return its part of the batch's mean nats, () fp32."""
        loss, nats = self.forward(tokens, targets)
        with self.at_last() if self.at_last and last else nullcontext():
            (loss * self.fraction).backward()
        return nats.mean() * self.fraction

    def accumulate(self, batches: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
        """Set ``.grad`` to the gradients of a step's micro-batches; return mean nats, () fp32."""
        self.clear()
        before, final = batches[:-1], batches[-1]
        nats = [self.add(*batch[:2]) for batch in before]
        return torch.stack([*nats, self.add(*final[:2], last=True)]).sum()

    @property
    def captured(self) -> bool:
        """Whether gradients and nats keep their addresses from now on."""
        return False

    def close(self) -> None:
        """Release what only further steps need."""


class CapturedMicroBatches(MicroBatches):
    """The same by graphs: one of a step's first micro-batch, one of a further one, and, if there is
    a context ``at_last``, one of the last.

    The first graph writes the gradients, and the others add to them, so they need not be cleared.
    All replays use the same memory. Parameters and levers must keep their addresses; tokens are
    copied to static buffers.
    """

    def __init__(
        self,
        forward: Forward,
        parameters: Sequence[Tensor],
        fraction: float,
        at_last: Overlap | None = None,
    ) -> None:
        super().__init__(forward, parameters, fraction, at_last)
        self.calls = 0
        # PyTorch's notes on graphs: make gradients first on a side stream, like the capture's.
        self.side = torch.cuda.Stream()
        # By whether the micro-batch is the first, and the last.
        self.graphs: dict[tuple[bool, bool], Captured] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.first = True
        self.gradients: list[Tensor | None] = []
        self.tokens = self.targets = torch.empty(0)

    def clear(self) -> None:
        self.first = True
        if not self.graphs:
            super().clear()

    def accumulate(self, batches: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
        self.clear()
        # Summed in the first replay's output, because the optimizer's graph reads this address.
        nats = self.add(*batches[0][:2], last=len(batches) == 1)
        for number, batch in enumerate(batches[1:], 2):
            nats += self.add(*batch[:2], last=number == len(batches))
        return nats

    @property
    def captured(self) -> bool:
        return len(self.graphs) > 0

    def add(self, tokens: Tensor, targets: Tensor, last: bool = False) -> Tensor:
        first, self.first = self.first, False
        last = last and self.at_last is not None
        self.calls += 1
        # A step's first micro-batch is captured first, even if the eager calls end within a step.
        if self.calls <= EAGER_CALLS or not (first or self.graphs):
            return self._add_eagerly(tokens, targets, last)
        if (first, last) not in self.graphs:
            self._capture(first, last, tokens, targets)
        self.tokens.copy_(tokens)
        self.targets.copy_(targets)
        nats = self.graphs[first, last].replay()
        # A replay writes to the capture's gradients; ``.grad`` may be another tensor by now.
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
        """Record one micro-batch; a step's first one must be recorded before the others."""
        if first:
            MicroBatches.clear(self)
            self.tokens, self.targets = tokens.clone(), targets.clone()
        add = super().add
        self.graphs[first, last] = capture(lambda: add(self.tokens, self.targets, last), self.pool)
        if first:
            self.gradients = [parameter.grad for parameter in self.parameters]

    def close(self) -> None:
        """Release the graphs, because NCCL's communicators end only when no graph holds them."""
        self.graphs.clear()
