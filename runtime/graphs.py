"""CUDA graphs: the kernel launches of a function, recorded once and then replayed."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

# Calls before a capture: kernels are loaded, libraries allocate their memory.
EAGER_CALLS = 2
# Not "global": NCCL's thread may query its events at any time, which would end a global capture.
CAPTURE_MODE = "thread_local"

Function = Callable[..., Tensor]
T = TypeVar("T")


def captures(backend: str, device: torch.device) -> bool:
    """Return whether launches of ``backend`` are recorded and replayed on ``device``."""
    return backend == "kernels" and device.type == "cuda"


class Graphs:
    """Records graphs that share one stream and one memory pool.

    A capture reuses what earlier graphs have freed. So two graphs must never run concurrently, and
    a tensor that outlives its graph's replay must stay referenced as long as captures may come.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = capture_stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @classmethod
    def of(cls, backend: str, device: torch.device) -> "Graphs | None":
        """Return graphs, or None where ``captures`` says that nothing is recorded."""
        return cls(device) if captures(backend, device) else None

    def apart(self) -> "Graphs":
        """Return graphs with a pool of their own, which may be replayed between two of these."""
        return Graphs(self.stream.device)

    def eagerly(self, function: Callable[[], T]) -> T:
        """Run ``function`` unrecorded on the captures' stream, wait, and return what it returns.

        PyTorch's notes on graphs: autograd's first accumulations must not be on the default stream.
        """
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = function()
        self.stream.synchronize()
        return result

    def compile(self, function: Callable[[], object]) -> None:
        """Compile the kernels that ``function`` launches, in parallel; none of them runs.

        So what it computes means nothing, and what it changed must be set anew.
        """
        from kernels.common.compiling import compile_in_parallel  # a CPU can do without Triton

        def dry_run() -> None:
            with compile_in_parallel():
                function()

        self.eagerly(dry_run)

    def record(self, function: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Record the launches of ``function``, which do not run yet.

        Returns:
            The graph, and what ``function`` returned, to which every replay writes.
        """
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode=CAPTURE_MODE
        )
        with no_collection(), recording:
            output = function()
        return graph, output

    @property
    def bytes(self) -> int:
        """The size of the memory pool."""
        segments = torch.cuda.memory_snapshot()
        return sum(
            segment["total_size"]
            for segment in segments
            if tuple(segment["segment_pool_id"]) == tuple(self.pool)
        )


class CapturedStep:
    """A function of launches: called as it is, until it is captured and then replayed.

    Args:
        function: takes tensors or None, launches kernels on the current stream, and returns one of
            its results.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor | None, ...] = ()
        self._output: Tensor | None = None

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """Return the function's result; a replay writes it where the last one did."""
        if self._graph is None or self._output is None:
            return self._function(*inputs)
        for static, given in zip(self._inputs, inputs, strict=True):
            if static is not None and given is not None:
                static.copy_(given)
        self._graph.replay()
        return self._output

    @property
    def captured(self) -> bool:
        """Whether calls are replays."""
        return self._graph is not None

    def capture(self, graphs: Graphs, *inputs: Tensor | None) -> None:
        """Record the function, which has run ``EAGER_CALLS`` times; it does not run now.

        A replay reads and writes the addresses of the capture. So all that the function reads must
        stay where it is.

        Args:
            graphs: where to record it.
            inputs: tensors to which each call copies its own, of the same shapes.
        """
        self._inputs = inputs
        self._graph, self._output = graphs.record(lambda: self._function(*inputs))

    def release(self) -> None:
        """Release the graph; later calls launch every kernel."""
        self._graph = self._output = None
        self._inputs = ()


@contextmanager
def no_collection() -> Iterator[None]:
    """Disable the automatic collection of garbage, and exempt all present objects from it.

    Garbage may be other graphs and their memory, which must not be freed during a capture.
    """
    was = gc.isenabled()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()


@cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures on a device: cuBLAS keeps 32 MB for each stream it saw."""
    return torch.cuda.Stream(device)
