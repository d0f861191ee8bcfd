"""CUDA graphs as a CPU can have them: each operation of PyTorch is recorded, then run again.

A replay runs the recorded operations on the recorded tensors, and writes each result to the memory
that the capture's has. What a GPU's memory pool may reuse is filled with NaN after each replay. So
the tests see stale addresses, freed tensors, and values that a capture reads on the host.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

T = TypeVar("T")


class RecordedGraphs:
    """As ``runtime.graphs.Graphs``, for ``CapturedStep``."""

    bytes = 0

    def __init__(self) -> None:
        self.recorded: list[Recording] = []

    def apart(self) -> "RecordedGraphs":
        return self  # recordings share no memory

    def eagerly(self, function: Callable[[], T]) -> T:
        return function()

    def compile(self, function: Callable[[], object]) -> None:
        """Compute what means nothing."""
        function()

    def record(self, function: Callable[[], Tensor]) -> "tuple[Recording, Tensor]":
        recording = Recording()
        with recording:
            output = function()
        recording.spoil(recording.made)  # a capture launches nothing
        self.recorded.append(recording)
        return recording, output


class Recording(TorchDispatchMode):
    """The operations of a function, in order.

    Attributes:
        made: memory that the operations allocated, by address.
        replays: number of replays.
    """

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []
        self.made: dict[int, Tensor] = {}
        self._read: dict[int, Tensor] = {}
        self._held: Counter[int] = Counter()
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host reads a value"
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = list(tensors((args, kwargs)))
        before = {address(tensor) for tensor in given}
        fresh = [
            (index, tensor)
            for index, tensor in enumerate(tree_flatten(result)[0])
            if isinstance(tensor, Tensor) and address(tensor) not in before
        ]
        if not fresh and not func._schema.is_mutable:
            return result  # a view
        self._record(func, args, kwargs, fresh)
        return result

    def _record(self, func: Any, args: Any, kwargs: Any, fresh: list[tuple[int, Tensor]]) -> None:
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.detach(), (args, kwargs))
        outputs = [(index, tensor.detach()) for index, tensor in fresh]
        for tensor in tensors((args, kwargs)):
            self._held[address(tensor)] += 1
            if address(tensor) not in self.made:
                self._read[address(tensor)] = tensor
        for _, tensor in outputs:
            self._held[address(tensor)] += 1
            self.made[address(tensor)] = tensor
        self._operations.append((func, args, kwargs, outputs))

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        freed = [tensor for tensor in self._read.values() if not self._is_held_by_others(tensor)]
        assert not freed, "the graph reads memory that is free"
        for func, args, kwargs, outputs in self._operations:
            results = tree_flatten(func(*args, **kwargs))[0]
            for index, tensor in outputs:
                tensor.copy_(results[index])
        self.spoil(at for at, tensor in self.made.items() if not self._is_held_by_others(tensor))

    @torch.no_grad()
    def spoil(self, addresses: Iterable[int]) -> None:
        """Let floating-point numbers there be NaN."""
        for at in addresses:
            whole = self.made[at]
            if whole.is_floating_point():
                memory = whole.untyped_storage()
                torch.empty(0, dtype=whole.dtype).set_(memory).fill_(float("nan"))

    def _is_held_by_others(self, tensor: Tensor) -> bool:
        memory = tensor.untyped_storage()  # is a reference by itself
        references = torch._C._storage_Use_Count(memory._cdata)
        return references - 1 > self._held[address(tensor)]


def tensors(tree: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor))


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
