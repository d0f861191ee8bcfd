"""A whole step of the sprint, loader and log included: its time, and the device's idle time."""

import gc
from collections.abc import Callable, Iterator

import pytest
import torch

from bench.harness.figures import Figure, missed
from bench.harness.rig import Rig
from bench.harness.timeline import Timeline, timeline, traced
from bench.swarm import cost as swarm_cost
from runtime.ranks import World

Keep = Callable[[list[Figure]], None]
SETTLING, TIMED, TRACED = 10, 150, 12  # steps
STEP_MS, BLOCKED_MS, IDLE_US, LAUNCHES = 57.0, 0.3, 100.0, 10.0


@pytest.fixture(scope="module")
def memory_before(device: torch.device) -> int:
    """Bytes that others hold on the device; from here on its peak is the rig's."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


@pytest.fixture(scope="module")
def rig(
    device: torch.device, memory_before: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    # Graphs are captured on a stream of their own: the loop's is the default one, as in a run.
    with torch.cuda.stream(torch.cuda.default_stream()):
        made = Rig(tmp_path_factory.mktemp("rig"), World.single(device))
        made.run(SETTLING)
        yield made
        made.close()


def step_figures(seconds: float, trace: Timeline) -> list[Figure]:
    """Return the figures of one GPU's step."""
    return [
        Figure("step, wall clock", 1e3 * seconds, "ms", most=STEP_MS),
        Figure("step, some kernel running", trace.busy / 1e3, "ms"),
        Figure("step, host waits beside its pace", trace.blocked / 1e3, "ms", most=BLOCKED_MS),
        Figure("step, host works, traced", trace.working / 1e3, "ms"),
        Figure("between two steps, no kernel, worst", max(trace.gaps), "us", most=IDLE_US),
        Figure("kernels launched outside of replays", trace.launches, "a step", most=LAUNCHES),
        Figure("graphs replayed", trace.replays, "a step"),
    ]


def test_step(rig: Rig, figures: Keep) -> None:
    seconds = rig.run(TIMED) / TIMED
    figures(step_figures(seconds, timeline(traced(lambda: rig.run(TRACED)))))


def test_memory(rig: Rig, memory_before: int, figures: Keep) -> None:
    """Of all that a run holds, its optimizer and the copy of warm-up included."""
    taken = torch.cuda.max_memory_allocated() - memory_before
    figures([Figure("step, peak memory", taken / 2**30, "GiB")])


def test_swarm_on_the_gpu(rig: Rig, figures: Keep) -> None:
    """What five agents cost the device: fails above the bars."""
    found = swarm_cost.measured(rig)
    figures(found)
    assert not missed(found)
