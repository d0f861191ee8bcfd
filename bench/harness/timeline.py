"""Figures of a profiler's trace of some steps: idle time of the device, launches of the host."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.autograd import DeviceType

COPY = ("Memcpy", "Memset")
END_OF_STEP = "Memcpy DtoH"  # of a step's numbers, concurrently with what follows
NEAR = 50.0  # microseconds in which they leave, after a step's end; and a kept state after them
LAUNCHES = frozenset(
    ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
)
WAITS = frozenset(("cudaEventSynchronize", "cudaStreamSynchronize", "cudaDeviceSynchronize"))
COLLECTIVE, REDUCTION = "nccl", "ReduceScatter"

Span = tuple[float, float]  # microseconds, begin and end


@dataclass(frozen=True)
class Event:
    """An event of the device or, if ``on_device`` is not set, a CUDA call of the host."""

    name: str
    begin: float
    end: float
    on_device: bool


@dataclass(frozen=True)
class Timeline:
    """Figures of whole steps, all times in microseconds.

    Attributes:
        gaps: from the end of a step's last kernel to the next one's first, all but the last step's:
            the longest time without a kernel near where a step's numbers leave.
        busy: of a step, the time in which some kernel ran.
        step: from one step's end to the next one's, in the mean.
        launches: kernels that the host launched by themselves, a step; replays have others.
        replays: graphs launched, a step.
        blocked: that the host waited for the device, a step, without the one wait for an earlier
            step that keeps it from running ahead.
        working: that the host did not wait, a step. The profiler's own cost is in it.
        collectives: time of ranks' collectives, a step.
        hidden: fraction of that in which another kernel ran.
        reductions_hidden: the same of the banks' reductions alone.
    """

    gaps: tuple[float, ...]
    busy: float
    step: float
    launches: float
    replays: float
    blocked: float
    working: float
    collectives: float
    hidden: float
    reductions_hidden: float


def traced(run: Callable[[], object]) -> list[Event]:
    """Return the events of the device and the host's requests to it, in order."""
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as trace:
        run()
        torch.cuda.synchronize()
    found = [as_event(event) for event in trace.events() or ()]
    return sorted(found, key=lambda event: event.begin)


def as_event(event: Any) -> Event:
    """Return an event of the profiler's."""
    span, on_device = event.time_range, event.device_type == DeviceType.CUDA
    return Event(event.name, span.start, span.end, on_device)


def timeline(events: Sequence[Event]) -> Timeline:
    """Return the timeline of the events of two steps or more.

    Raises:
        ValueError: there are fewer.
    """
    device = [event for event in events if event.on_device]
    kernels = [event for event in device if not event.name.startswith(COPY)]
    ends = step_ends(device)
    if len(ends) < 2:
        raise ValueError(f"a trace of {len(ends)} steps")
    steps = len(ends) - 1
    whole = (ends[0], ends[-1])
    host = [e for e in events if not e.on_device and whole[0] <= e.begin < whole[1]]
    waits = sorted(e.end - e.begin for e in host if e.name in WAITS)
    step = (whole[1] - whole[0]) / steps
    collectives = [e for e in kernels if COLLECTIVE in e.name and whole[0] <= e.begin < whole[1]]
    others = union(e for e in kernels if COLLECTIVE not in e.name)
    busy = union(kernels)
    return Timeline(
        gaps=tuple(gap(busy, end) for end in ends[:-1]),
        busy=covered(busy, whole) / steps,
        step=step,
        launches=sum(e.name in LAUNCHES for e in host) / steps,
        replays=sum(e.name == "cudaGraphLaunch" for e in host) / steps,
        blocked=sum(waits[:-steps]) / steps,
        working=step - sum(waits) / steps,
        collectives=sum(e.end - e.begin for e in collectives) / steps,
        hidden=overlap(collectives, others),
        reductions_hidden=overlap([e for e in collectives if REDUCTION in e.name], others),
    )


def step_ends(device: Iterable[Event]) -> list[float]:
    """Return when each step's numbers leave. Copies close behind are of the state."""
    ends, last = [], -math.inf
    for event in device:
        if event.name.startswith(END_OF_STEP):
            if event.begin > last + NEAR:
                ends.append(event.begin)
            last = event.end
    return ends


def gap(spans: Sequence[Span], moment: float) -> float:
    """Return the longest gap between two spans within ``NEAR`` of a moment; 0 if there is none."""
    holes = [(end, begin) for (_, end), (begin, _) in pairwise(spans)]
    near = [b - e for e, b in holes if b > moment - NEAR and e < moment + NEAR]
    return max(near, default=0.0)


def union(events: Iterable[Event]) -> list[Span]:
    """Return the spans covered by at least one of the events, which are ordered by begin."""
    spans: list[Span] = []
    for event in events:
        if spans and event.begin <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], event.end)
        else:
            spans.append((event.begin, event.end))
    return spans


def covered(spans: Iterable[Span], whole: Span) -> float:
    """Return how much of ``whole`` the spans cover."""
    return sum(max(0.0, min(end, whole[1]) - max(begin, whole[0])) for begin, end in spans)


def overlap(events: Sequence[Event], spans: Sequence[Span]) -> float:
    """Return the fraction of the events' time that the spans cover; 0 without events."""
    total = sum(event.end - event.begin for event in events)
    return sum(covered(spans, (e.begin, e.end)) for e in events) / total if total else 0.0


def added_by(gaps: Sequence[float], special: Sequence[int]) -> tuple[float, float]:
    """Compare some gaps with all others.

    Args:
        gaps: between steps.
        special: indices of the gaps to compare.

    Returns:
        mean of the special gaps less that of the others; its standard error.
    """
    chosen, rest = [gaps[i] for i in special], [g for i, g in enumerate(gaps) if i not in special]
    error = math.hypot(standard_error(chosen), standard_error(rest))
    return statistics.fmean(chosen) - statistics.fmean(rest), error


def differences(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the mean ratio of the pairs, less one, and its standard error."""
    ratios = [first / second - 1 for first, second in pairs]
    return statistics.fmean(ratios), standard_error(ratios)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of two values or more."""
    return statistics.stdev(values) / math.sqrt(len(values))
