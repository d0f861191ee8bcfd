"""Contests: our kernel and its peers, checked first, then timed in turn in one process."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from bench.harness.bar import Bar, Result
from bench.harness.markdown import markdown

WARM_UP_ROUNDS = 5
ROUNDS = 30


@dataclass(frozen=True)
class Contest:
    """One comparison to time.

    Attributes:
        name: operation and direction, as "norm, backward".
        ours: one call of our kernel.
        peers: one call of each other way to compute the same, by name.
        launched: peers that no graph can replay in a run: timed as the host launches them, from an
            idle device to an idle device.
        check: raises AssertionError if ours is wrong; nothing is timed then.
        bytes_moved: fewest bytes that must cross device memory, each input and output once.
        flops: of the matrix products.
        bar: targets of ours.
    """

    name: str
    ours: Callable[[], object]
    peers: Mapping[str, Callable[[], object]]
    check: Callable[[], object]
    bytes_moved: int
    flops: int = 0
    bar: Bar = field(default_factory=Bar)
    launched: Mapping[str, Callable[[], object]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ceilings:
    """The device's best, measured in the same run: bytes/s copied, flop/s in bf16."""

    bandwidth: float
    flops: float

    def floor(self, contest: Contest) -> float:
        """Return the least seconds in which a kernel could compute the contest."""
        return max(contest.bytes_moved / self.bandwidth, contest.flops / self.flops)


def run_contest(contest: Contest, ceilings: Ceilings, device: torch.device) -> Result:
    """Check, then time.

    Raises:
        AssertionError: ours is wrong, so it has no time.
    """
    contest.check()
    calls = {"ours": contest.ours, **contest.peers}
    times = time_in_turn(calls, device)
    on_gpu = device.type == "cuda"
    ours = times.pop("ours")
    times |= {name: time_launched(call, device) for name, call in contest.launched.items()}
    result = Result(
        name=contest.name,
        seconds=ours,
        floor=ceilings.floor(contest),
        bytes_per_second=contest.bytes_moved / ours,
        flops_per_second=contest.flops / ours,
        peers=times,
        memory={way: memory_taken(call) for way, call in calls.items()} if on_gpu else {},
    )
    return replace(result, verdict=contest.bar.verdict(result))


def time_in_turn(
    calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = ROUNDS
) -> dict[str, float]:
    """Return the median seconds of each call; each round times all, so that drift hits all alike.

    At real sizes each call also evicts the others' data from the cache. On a GPU calls are replays
    of CUDA graphs, as in a training step, so that the host's speed does not count.
    """
    for call in calls.values():
        for _ in range(WARM_UP_ROUNDS):
            call()
    timer = time_on_host
    if device.type == "cuda":
        timer = time_on_gpu
        calls = {name: captured(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(timer(call))
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def time_launched(call: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Return median host seconds of a call and of all that it launches."""

    def to_its_end() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UP_ROUNDS):
        to_its_end()
    return statistics.median(time_on_host(to_its_end) for _ in range(rounds))


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """Return a replay of the call's launches, which were made before on the current stream."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        call()
    return graph.replay


def time_on_gpu(call: Callable[[], object]) -> float:
    """Return device seconds of one call, by events; launches are queued behind a running kernel."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000)  # cycles: half a millisecond, in which the host can run ahead
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def time_on_host(call: Callable[[], object]) -> float:
    """Return host seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def memory_taken(call: Callable[[], object]) -> int:
    """Return the peak bytes of GPU memory that a call allocates."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def measure_ceilings(device: torch.device) -> Ceilings:
    """Copy a large buffer, multiply large matrices; random data, because zeros run faster."""
    on_gpu = device.type == "cuda"
    source = torch.randn((2**28 if on_gpu else 2**22,), device=device)
    target = torch.empty_like(source)
    side, dtype = (8192, torch.bfloat16) if on_gpu else (256, torch.float32)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    # Not ``copy_``: captured in a graph it is no kernel, and two thirds as fast.
    times = time_in_turn(
        {"copy": lambda: torch.neg(source, out=target), "product": lambda: left @ right}, device
    )
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(moved / times["copy"], 2 * side**3 / times["product"])


def report(results: Sequence[Result], ceilings: Ceilings) -> str:
    """Return a Markdown table with one row per contest."""
    peers = list(dict.fromkeys(peer for result in results for peer in result.peers))
    head = ["contest", "us", "GB/s", "TFLOP/s", "floor us", "of floor", "GiB"]
    head += [f"{peer} us (ratio, GiB)" for peer in peers] + ["bar"]
    most = f"copy {ceilings.bandwidth / 1e9:.0f} GB/s, product {ceilings.flops / 1e12:.0f} TFLOP/s"
    return f"{most}\n\n{markdown(head, (row(result, peers) for result in results))}"


def row(result: Result, peers: Sequence[str]) -> list[str]:
    """Return one contest's cells."""
    cells = [
        result.name,
        f"{1e6 * result.seconds:.1f}",
        f"{result.bytes_per_second / 1e9:.0f}",
        f"{result.flops_per_second / 1e12:.1f}" if result.flops_per_second else "-",
        f"{1e6 * result.floor:.1f}",
        f"{result.floor / result.seconds:.0%}",
        gib(result, "ours"),
    ]
    for peer in peers:
        ratio, taken = result.ratios.get(peer), gib(result, peer)
        cells.append(f"{1e6 * result.peers[peer]:.1f} ({ratio:.2f}, {taken})" if ratio else "-")
    return [*cells, result.verdict or "-"]


def gib(result: Result, way: str) -> str:
    """Return memory of ours or a peer."""
    return f"{result.memory[way] / 2**30:.2f}" if way in result.memory else "-"
