"""Times the tree that it is started in, on request: one line of JSON in, one out.

    {"do": "names", "only": "kernels"}   what can be timed
    {"do": "warm_up", "names": [...]}    compile all of them, in parallel
    {"do": "prepare", "name": "norm"}    make one, call it, capture its graph; reply a digest
    {"do": "time", "calls": 20}          microseconds of a call, the median
    {"do": "drop"}                       free what was prepared

Replies are ``{"done": ...}`` or ``{"failed": "..."}``. ``--tiny`` is a size for a CPU.
"""

import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import timed_kernels
import timed_whole
import torch
from timed_kernels import BOTH, DEVICE, GPU, KERNELS, TINY, Call, Sizes
from torch import Tensor

from kernels import operations

UNTIMED = 3  # calls before the timed ones, because the other process had the GPU
CAPTURED_AFTER = 2  # calls
SLEEP = 1_000_000  # cycles: half a millisecond in which the host runs ahead
MODEL, STEP, OPTIMIZER = "model" + BOTH, "training step", "optimizer step"


class Worker:
    """What one process holds: at most one subject at a time."""

    def __init__(self, tiny: bool) -> None:
        self.sizes = TINY if tiny else Sizes()
        self.ops = operations("kernels" if GPU else "reference")
        self.call: Any = None
        self.timed: Any = None
        self.stream: Any = None
        # Graphs cannot be captured on the default stream, and a step captures its own.
        self.side = torch.cuda.Stream() if GPU else None

    def names(self, only: str | None) -> list[str]:
        """Return what can be timed, the longest first."""
        kernels = [name + part for name in KERNELS for part in ("", BOTH)]
        # A loss and an embedding are never computed without their gradients.
        groups = {"step": [STEP], "model": [MODEL], "kernels": kernels + [OPTIMIZER] * GPU}
        return groups[only] if only else [name for group in groups.values() for name in group]

    def warm_up(self, names: Sequence[str]) -> None:
        """Compile what ``names`` launch, all kernels in parallel."""
        with torch.cuda.stream(self.side), timed_kernels.in_parallel():
            for name in names:
                if name != STEP:  # compiles in parallel by itself
                    self.make(name)()
                    self.free()

    def prepare(self, name: str) -> int:
        """Make a subject, call it and capture its graph; return a digest of what it computes."""
        with torch.cuda.stream(None if name == STEP else self.side):
            self.call = self.make(name)
            found = digest(self.call())
            self.timed = self.call
            if GPU and name != STEP:
                for _ in range(CAPTURED_AFTER - 1):
                    self.call()
                self.timed = captured(self.call)
        self.stream = None if name == STEP else self.side
        return found

    def make(self, name: str) -> Call:
        """Return a call of a subject; equal inputs in every process."""
        torch.manual_seed(0)
        if name == STEP:
            return timed_whole.Step(self.sizes)
        if name == MODEL:
            return timed_whole.network(self.ops, self.sizes)
        if name == OPTIMIZER:
            return timed_whole.optimizer()
        make = timed_kernels.both_call if name.endswith(BOTH) else timed_kernels.forward_call
        return make(*KERNELS[name.removesuffix(BOTH)](self.ops, self.sizes))

    def time(self, calls: int) -> float:
        """Return the median microseconds of a call."""
        with torch.cuda.stream(self.stream):
            return statistics.median(times(self.timed, UNTIMED + calls)[UNTIMED:])

    def drop(self) -> None:
        """Free what was prepared."""
        if hasattr(self.call, "close"):
            self.call.close()
        self.call = self.timed = None
        self.free()

    def free(self) -> None:
        """Give memory back, because the other process needs it."""
        gc.collect()
        if GPU:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def captured(call: Call) -> Callable[[], object]:
    """Return a replay of the call's launches, captured on the current stream."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        call()
    return graph.replay


def times(call: Callable[[], object], calls: int) -> list[float]:
    """Return microseconds of each call, by the device's clock where there is one."""
    if not GPU:
        ends = [time.perf_counter()]
        for _ in range(calls):
            call()
            ends.append(time.perf_counter())
        return [1e6 * (end - begin) for begin, end in pairwise(ends)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    torch.cuda.synchronize()
    torch.cuda._sleep(SLEEP)
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    marks[-1].synchronize()
    return [1000 * begin.elapsed_time(end) for begin, end in pairwise(marks)]


def digest(tensors: Sequence[Tensor]) -> int:
    """Return a number that differs where any bit does, but for luck."""
    total = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for tensor in tensors:
        bits = torch.int16 if tensor.element_size() == 2 else torch.int32
        values = tensor.detach().contiguous().view(-1).view(bits).long()
        places = torch.arange(len(values), device=DEVICE) % 1009 + 1
        total = 31 * total + (values * places).sum()
    return int(total)


def main() -> None:
    """Serve until stdin ends. What libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if not GPU:
        torch.set_num_threads(1)
    worker = Worker("--tiny" in sys.argv)
    gc.freeze()  # what is imported stays, and each collection would look through it
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"done": getattr(worker, request.pop("do"))(**request)}
        except Exception as error:
            traceback.print_exc()
            reply = {"failed": f"{type(error).__name__}: {error}"[:200].replace("\n", " ")}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
