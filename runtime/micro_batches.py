"""Gradients of a step's micro-batches: launched kernel by kernel, or replayed as CUDA graphs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from runtime.graphs import EAGER_CALLS, CapturedStep, Graphs

MicroBatch = Sequence[Tensor | None]
Forward = Callable[..., tuple[Tensor, Tensor]]
Overlap = Callable[[], AbstractContextManager[None]]
Gradients = list[Tensor | None]


class MicroBatches:
    """Adds up the gradients of a step's micro-batches in ``.grad``.

    Once captured, a step's first micro-batch is one graph, a further one is another and, if there
    is a context ``at_last``, the last one is a third. The first graph writes the gradients, and the
    others add to them. Parameters and levers must keep their addresses.

    Args:
        forward: takes a micro-batch's tensors, tokens and targets (B, T) first; returns the loss ()
            and each token's nats.
        parameters: whose gradients are computed.
        fraction: of the whole batch that one micro-batch is.
        nats: () fp32, which receives this rank's part of the batch's mean nats.
        at_last: context of the backward pass of a step's last micro-batch, in which the gradients
            become complete, for example to reduce them over ranks; None: no such context.
        windows: (2,) fp64, which receives the same part of the mean of the windows' mean nats, and
            of the mean of their squares; None: nobody reads them.
    """

    def __init__(
        self,
        forward: Forward,
        parameters: Sequence[Tensor],
        fraction: float,
        nats: Tensor,
        at_last: Overlap | None = None,
        windows: Tensor | None = None,
    ) -> None:
        self.forward, self.parameters, self.fraction = forward, parameters, fraction
        self.nats, self.at_last, self.windows = nats, at_last, windows
        kinds = [(first, last) for first in (True, False) for last in (True, False)]
        self._steps = {kind: CapturedStep(partial(self._add, *kind)) for kind in kinds}
        # The gradients at fixed addresses, and those of them that this step writes.
        self._shared: Gradients | None = None
        self._written: Gradients | None = None

    def accumulate(self, batches: Sequence[MicroBatch]) -> Tensor:
        """Set ``.grad`` to the gradients of a step's micro-batches; return ``nats``."""
        for kind, batch in self._kinds(batches):
            self._steps[kind](*batch)
            if self._written is not None:
                # A replay writes to the capture's tensors; ``.grad`` may be another one by now.
                self.set_gradients(self._written)
        return self.nats

    def set_gradients(self, gradients: Gradients) -> None:
        """Let ``.grad`` be these tensors, one of each parameter."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def prepare(self, graphs: Graphs, batches: Sequence[MicroBatch]) -> None:
        """Capture a step that shares its gradients with no other; arguments as ``capture``."""
        self.warm_up(graphs, batches, self.no_gradients())
        self.capture(graphs, batches, self.no_gradients())

    @property
    def captured(self) -> bool:
        """Whether steps are replays."""
        return self._written is not None

    def no_gradients(self) -> Gradients:
        """Return gradients to be shared that are not made yet."""
        return [None] * len(self.parameters)

    def warm_up(self, graphs: Graphs, batches: Sequence[MicroBatch], gradients: Gradients) -> None:
        """Launch what ``capture`` records, so that kernels are loaded and libraries allocate."""
        self._shared = gradients
        each_kind = [*batches[:1], *batches[1:][-2:]]
        for _ in range(EAGER_CALLS):
            graphs.eagerly(lambda: self.accumulate(each_kind))
        self._shared = None

    def capture(self, graphs: Graphs, batches: Sequence[MicroBatch], gradients: Gradients) -> None:
        """Capture every micro-batch of a step, after ``warm_up``.

        Args:
            graphs: where to record.
            batches: of a whole step.
            gradients: one of each parameter, to which this step's are copied in the end. Where
                there is None yet, this step's own is entered.
        """
        # Now, because a capture cannot reuse what was allocated outside of it.
        self.set_gradients(self.no_gradients())
        self._shared = gradients
        inputs = [None if tensor is None else tensor.clone() for tensor in batches[0]]
        for kind, _ in self._kinds(batches):
            if not self._steps[kind].captured:
                self._steps[kind].capture(graphs, *inputs)
        self._written = [parameter.grad for parameter in self.parameters]

    def _kinds(
        self, batches: Sequence[MicroBatch]
    ) -> Iterator[tuple[tuple[bool, bool], MicroBatch]]:
        """Yield each micro-batch after whether it is the first, and one with ``at_last``."""
        final = len(batches) - 1
        for number, batch in enumerate(batches):
            yield (number == 0, number == final and self.at_last is not None), batch

    def _add(self, first: bool, last: bool, *batch: Tensor | None) -> Tensor:
        if first:
            self.set_gradients(self.no_gradients())
        loss, nats = self.forward(*batch)
        with self.at_last() if self.at_last and last else nullcontext():
            (loss * self.fraction).backward()
        mean = nats.detach().mean()
        if self.windows is not None:
            means = nats.detach().mean(1).double()
            part = torch.stack((means.mean(), means.square().mean())) * self.fraction
            self.windows.copy_(part if first else self.windows + part)
        if first:
            torch.mul(mean, self.fraction, out=self.nats)
            self._share()
        else:
            self.nats += mean * self.fraction
        return self.nats

    def _share(self) -> None:
        """Copy this step's gradients to the shared ones, which ``.grad`` then is."""
        if self._shared is None:
            return
        sources, targets = [], []
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            shared = self._shared[index]
            if shared is None:
                self._shared[index] = parameter.grad
            else:
                sources.append(parameter.grad)
                targets.append(shared)
                parameter.grad = shared
        if targets:
            torch._foreach_copy_(targets, sources)

    def close(self) -> None:
        """Release the graphs, because NCCL's communicators end only when no graph holds them."""
        for step in self._steps.values():
            step.release()
        self._shared = self._written = None
        self.set_gradients(self.no_gradients())
