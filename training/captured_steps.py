"""The steps of a run by variant: all are compiled and captured before the clock starts."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from runtime.graphs import Graphs
from runtime.micro_batches import MicroBatch, MicroBatches
from runtime.startup import Done, unmeasured
from settings.variants import Variant
from training.update import Update

Batches = Sequence[MicroBatch]


@dataclass
class Cost:
    """What the preparation of a variant took: seconds, and bytes of the graphs' memory pool.

    The compilation of kernels, which all variants share, is not part of it.
    """

    seconds: float = 0.0
    bytes: int = 0


class CapturedSteps:
    """Steps of several variants: each computes gradients by itself, and one update applies them.

    A step runs launch by launch until ``prepare`` captures it. All graphs share one memory pool.
    All variants leave gradients and nats at the same addresses, which the update's graph reads. The
    first variant's own gradients are these; a further variant's first graph ends with a copy.

    Attributes:
        costs: of each variant that is captured.

    Args:
        gradients: of each variant's micro-batches, which have the same ``parameters`` and ``nats``.
        update: applies them; it has the same nats.
        graphs: records the graphs; None: every step runs launch by launch.
    """

    def __init__(
        self, gradients: Mapping[Variant, MicroBatches], update: Update, graphs: Graphs | None
    ) -> None:
        self.gradients, self.update, self.graphs = gradients, update, graphs
        self.costs: dict[Variant, Cost] = {}

    def prepare(self, batches: Callable[[Variant], Batches], done: Done = unmeasured) -> None:
        """Compile and, if there are graphs, warm up and capture every variant; takes some steps.

        `training.warm_up.warm_up` undoes the steps.

        Args:
            batches: returns the micro-batches of a step of a variant.
            done: is called at the end of each phase but the last, the first replays.
        """
        samples = {variant: batches(variant) for variant in self.gradients}
        done("first batches")
        if self.graphs is None:
            self._compile(samples, done)
            return
        self.graphs.eagerly(lambda: self._compile(samples, done))
        self._capture(self.graphs, samples, done)
        for variant, sample in samples.items():  # a graph's first launch also uploads it
            self.step(variant, sample, 1)

    def step(
        self,
        variant: Variant,
        batches: Batches,
        number: int,
        before_update: Callable[[], object] = lambda: None,
    ) -> Tensor:
        """Take a step.

        Args:
            variant: of the step.
            batches: its micro-batches.
            number: of the step, from 1.
            before_update: is called when the gradients are launched and the weights still stay.

        Returns:
            The step's numbers, as ``Update`` returns them.

        Raises:
            KeyError: the variant is none of ``gradients``.
        """
        self.accumulate(variant, batches)
        before_update()
        return self.update(number)

    def accumulate(self, variant: Variant, batches: Batches) -> None:
        """Set ``.grad`` and the nats to those of a step; raises as ``step``."""
        self.gradients[variant].accumulate(batches)

    def _compile(self, samples: Mapping[Variant, Batches], done: Done) -> None:
        """Compile the kernels of all variants and of the update in parallel.

        A micro-batch of each is enough, because a further one launches the same kernels.
        """
        # Imported here, because it needs Triton, which a CPU can do without.
        from kernels.common.compiling import compile_in_parallel

        with compile_in_parallel(done):
            for number, (variant, sample) in enumerate(samples.items(), 1):
                self.accumulate(variant, sample[:1])
                done(f"dry run {number}")  # the first also loads libraries
            self.update(1)
            done("dry run of update")

    def _capture(self, graphs: Graphs, samples: Mapping[Variant, Batches], done: Done) -> None:
        """Capture all variants with one set of gradients, then the update.

        All warm-ups come first, because the first capture frees what they allocated.
        """
        first = next(iter(self.gradients.values()))
        eager, shared = first.no_gradients(), first.no_gradients()
        for variant, sample in samples.items():
            with self._measured(variant, graphs):
                self.gradients[variant].warm_up(graphs, sample, eager)
        eager.clear()
        done("first launches")
        for variant, sample in samples.items():
            with self._measured(variant, graphs):
                self.gradients[variant].capture(graphs, sample, shared)
        for variant, sample in samples.items():
            self.accumulate(variant, sample)  # captures launch nothing: now there are gradients
        first.set_gradients(shared)
        graphs.eagerly(lambda: self.update(1))
        first.set_gradients(shared)
        self.update.capture(graphs)
        done("captures")

    @contextmanager
    def _measured(self, variant: Variant, graphs: Graphs) -> Iterator[None]:
        """Add what is done in this context to the variant's cost."""
        cost = self.costs.setdefault(variant, Cost())
        before, began = graphs.bytes, time.perf_counter()
        yield
        cost.seconds += time.perf_counter() - began
        cost.bytes += graphs.bytes - before

    def close(self) -> None:
        """Release the graphs; further steps launch every kernel."""
        for gradients in self.gradients.values():
            gradients.close()
        self.update.close()
