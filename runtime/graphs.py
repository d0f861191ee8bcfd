"""CUDA graphs: the kernel launches of a function, recorded once and then replayed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Not "global": NCCL's thread may query its events at any time, which would end a global capture.
CAPTURE_MODE = "thread_local"


class Captured(NamedTuple):
    """A graph, and the tensor that its function returned; every replay writes to this tensor."""

    graph: torch.cuda.CUDAGraph
    output: Tensor

    def replay(self) -> Tensor:
        """Launch the graph; return ``output``."""
        self.graph.replay()
        return self.output


def capture(function: Callable[[], Tensor], pool: Any) -> Captured:
    """Record the launches of ``function``, which do not run yet.

    A replay reads and writes the addresses of the capture. So all inputs must stay where they are,
    and all kernels must be compiled before.

    Args:
        function: launches kernels on the current stream and returns one of its results.
        pool: memory pool that the graph shares with others (``torch.cuda.graph_pool_handle``).
    """
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode=CAPTURE_MODE):
        output = function()
    return Captured(graph, output)
