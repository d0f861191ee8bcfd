"""Streams on a CPU: launches run at once, but what does not wait for what is found all the same.

Every stream has a clock, how many launches of each stream it is behind; a launch that touches
memory which another one, not known to be over, writes is a race.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

from kernels.common import streams

MAIN = "current"


@dataclass
class Stream:
    """What ``kernels.common.streams`` calls of ``torch.cuda.Stream``, in a capture of a graph.

    What a captured stream waits for must be captured, too.
    """

    name: str
    captured: bool = False
    clock: dict[str, int] = field(default_factory=dict)

    def record_event(self) -> dict[str, int]:
        return dict(self.clock)

    def wait_event(self, event: dict[str, int]) -> None:
        self.clock = later(self.clock, event)

    def wait_stream(self, other: "Stream") -> None:
        assert other.captured, f"{self.name} waits for work of {other.name} that is not captured"
        self.captured = True
        self.clock = later(self.clock, other.clock)


def later(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Behind whatever either clock is behind."""
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in one | other}


@dataclass(frozen=True)
class Access:
    """A launch's touch of the bytes from ``first`` to ``end``."""

    launch: str
    stream: str
    count: int  # of its stream's launches, with this one
    first: int
    end: int
    writes: bool

    def meets(self, other: "Access") -> bool:
        return self.first < other.end and other.first < self.end and (self.writes or other.writes)


class Launches(TorchDispatchMode):
    """All launches of PyTorch's and Triton's within, by stream, and their races."""

    def __init__(self, only_read: Mapping[str, str]) -> None:
        super().__init__()
        self.only_read = only_read
        self.streams: dict[str, Stream] = {MAIN: Stream(MAIN, captured=True)}
        self.current = self.streams[MAIN]
        self.accesses: list[Access] = []
        self.races: list[str] = []
        # Memory that is never freed is never handed out again: an address is one tensor's.
        self.kept: list[Any] = []
        self.interpreting = False

    def side_stream(self, device: torch.device, lane: int) -> Stream:
        return self.streams.setdefault(f"lane {lane}", Stream(f"lane {lane}"))

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def names(self) -> set[str]:
        """Of the streams that anything has been launched on."""
        return {access.stream for access in self.accesses}

    def add(self, launch: str, touched: list[tuple[Tensor, bool]]) -> None:
        clock, name = self.current.clock, self.current.name
        clock[name] = clock.get(name, 0) + 1
        added = [
            Access(launch, name, clock[name], *extent(tensor), writes)
            for tensor, writes in touched
            if tensor.numel()
        ]
        self.kept += (tensor.untyped_storage() for tensor, _ in touched)
        for access in self.accesses:
            if access.count > clock.get(access.stream, 0) and any(map(access.meets, added)):
                self.races.append(f"{launch} ({name}) and {access.launch} ({access.stream})")
        self.accesses += added

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        schema = func._schema
        is_view = any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        if self.interpreting or is_view or "empty" in schema.name:
            self.kept += (t.untyped_storage() for t in tree_leaves(result) if is_tensor(t))
            return result
        given = dict(zip((argument.name for argument in schema.arguments), args, strict=False))
        given |= kwargs or {}
        written = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
        touched = [
            (tensor, name in written)
            for name, value in given.items()
            for tensor in tree_leaves(value)
            if is_tensor(tensor)
        ]
        touched += [(tensor, True) for tensor in tree_leaves(result) if is_tensor(tensor)]
        self.add(schema.name, touched)
        return result

    def interpreted(self, executor: Any, *args: Any, **kwargs: Any) -> None:
        """A Triton kernel: it may write whatever it is given, but for what it is said to read."""
        name = executor.fn.__name__
        given = dict(zip(inspect.signature(executor.fn).parameters, args, strict=False)) | kwargs
        touched = [
            (getattr(value, "base", value), argument != self.only_read.get(name))
            for argument, value in members(given)
        ]
        self.add(name, [(tensor, writes) for tensor, writes in touched if is_tensor(tensor)])
        self.interpreting = True
        RUN(executor, *args, **kwargs)
        self.interpreting = False


RUN = GridExecutor.__call__


def members(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All arguments of a launch by name, a NamedTuple's members as ``"inputs.x"``."""
    for name, value in arguments.items():
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            fields = value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
            yield from members({f"{name}.{field}": of for field, of in fields.items()})
        else:
            yield name, value


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def extent(tensor: Tensor) -> tuple[int, int]:
    """From its first byte to its last, gaps between rows included."""
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


@contextmanager
def simulated(monkeypatch: pytest.MonkeyPatch, **only_read: str) -> Iterator[Launches]:
    """``kernels.common.streams`` has streams within, on CPU tensors and in the interpreter.

    Args:
        only_read: by a Triton kernel's name, the argument that it does not write; a member of a
            NamedTuple as ``"inputs.x"``.
    """
    launches = Launches(only_read)
    with monkeypatch.context() as patch, launches:
        patch.setattr(streams, "side_stream", launches.side_stream)
        patch.setattr(torch.cuda, "current_stream", lambda device: launches.streams[MAIN])
        patch.setattr(torch.cuda, "stream", launches.on)
        patch.setattr(
            GridExecutor, "__call__", lambda self, *a, **k: launches.interpreted(self, *a, **k)
        )
        yield launches
