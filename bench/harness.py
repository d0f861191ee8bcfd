"""Contests: our kernel and its peers, checked first, then timed in turn in one process."""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from errors import InputError
from files import write_text

WARM_UP_ROUNDS = 5
ROUNDS = 30
ALLOWED_LOSS = 0.05  # of a ratio to a peer, against a baseline


@dataclass(frozen=True)
class Contest:
    """What is timed.

    Attributes:
        name: operation and direction, as "norm, backward".
        ours: one call of our kernel.
        peers: one call of each other way to compute the same, by name.
        check: raises AssertionError where ours is wrong; nothing is timed then.
        bytes_moved: fewest bytes that must cross device memory, each input and output once.
        flops: of the matrix products.
    """

    name: str
    ours: Callable[[], object]
    peers: Mapping[str, Callable[[], object]]
    check: Callable[[], None]
    bytes_moved: int
    flops: int = 0


@dataclass(frozen=True)
class Ceilings:
    """What the device does at best, measured in the same run: bytes/s copied, flop/s in bf16."""

    bandwidth: float
    flops: float

    def floor(self, contest: Contest) -> float:
        """Seconds under which no kernel computes the contest."""
        return max(contest.bytes_moved / self.bandwidth, contest.flops / self.flops)


@dataclass(frozen=True)
class Result:
    """Median seconds of a contest; ``ratios`` are the peers' times over ours: above 1 we win."""

    name: str
    seconds: float
    floor: float
    bytes_per_second: float
    flops_per_second: float
    peers: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's time over ours."""
        return {peer: seconds / self.seconds for peer, seconds in self.peers.items()}


def run_contest(contest: Contest, ceilings: Ceilings, device: torch.device) -> Result:
    """Check, then time.

    Raises:
        AssertionError: ours is wrong, so it has no time.
    """
    contest.check()
    times = time_in_turn({"": contest.ours, **contest.peers}, device)
    ours = times.pop("")
    return Result(
        name=contest.name,
        seconds=ours,
        floor=ceilings.floor(contest),
        bytes_per_second=contest.bytes_moved / ours,
        flops_per_second=contest.flops / ours,
        peers=times,
    )


def time_in_turn(
    calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = ROUNDS
) -> dict[str, float]:
    """Median seconds of each call, all of them in every round: a clock that drifts hits all alike.

    At real sizes each call also evicts the others' data from the cache.
    """
    for call in calls.values():
        for _ in range(WARM_UP_ROUNDS):
            call()
    timer = time_on_gpu if device.type == "cuda" else time_on_host
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(timer(call))
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def time_on_gpu(call: Callable[[], object]) -> float:
    """Device seconds of one call, by events; launches are queued behind a running kernel."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000)  # cycles: half a millisecond in which the host can run ahead
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def time_on_host(call: Callable[[], object]) -> float:
    """Host seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure_ceilings(device: torch.device) -> Ceilings:
    """Copy a large buffer, multiply large matrices; random data, because zeros run faster."""
    on_gpu = device.type == "cuda"
    source = torch.randn((2**28 if on_gpu else 2**22,), device=device)
    target = torch.empty_like(source)
    side, dtype = (8192, torch.bfloat16) if on_gpu else (256, torch.float32)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = time_in_turn(
        {"copy": lambda: target.copy_(source), "product": lambda: left @ right}, device
    )
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(moved / times["copy"], 2 * side**3 / times["product"])


def report(results: Sequence[Result], ceilings: Ceilings) -> str:
    """A Markdown table, a row a contest."""
    peers = list(dict.fromkeys(peer for result in results for peer in result.peers))
    head = ["contest", "us", "GB/s", "TFLOP/s", "floor us", "of floor"]
    head += [f"{peer} us (ratio)" for peer in peers]
    lines = [
        f"copy {ceilings.bandwidth / 1e9:.0f} GB/s, product {ceilings.flops / 1e12:.0f} TFLOP/s",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    return "\n".join(lines + [row(result, peers) for result in results])


def row(result: Result, peers: Sequence[str]) -> str:
    """One contest's cells."""
    cells = [
        result.name,
        f"{1e6 * result.seconds:.1f}",
        f"{result.bytes_per_second / 1e9:.0f}",
        f"{result.flops_per_second / 1e12:.1f}" if result.flops_per_second else "-",
        f"{1e6 * result.floor:.1f}",
        f"{result.floor / result.seconds:.0%}",
    ]
    for peer in peers:
        known = peer in result.peers
        cells.append(
            f"{1e6 * result.peers[peer]:.1f} ({result.ratios[peer]:.2f})" if known else "-"
        )
    return "| " + " | ".join(cells) + " |"


def save(path: Path, results: Sequence[Result], about: Mapping[str, str]) -> None:
    """Write results as a baseline."""
    rows = [asdict(result) for result in results]
    write_text(path, json.dumps({"about": dict(about), "results": rows}, indent=1) + "\n")


def losses(path: Path, results: Sequence[Result], device: str) -> list[str]:
    """What fell behind a baseline: a line for each ratio that is more than 5 % below its own.

    Ratios to peers measured in the same run travel between machines; times do not.

    Raises:
        InputError: no baseline, or one of another device.
    """
    try:
        baseline = json.loads(path.read_text(encoding="utf-8"))
        before = {row["name"]: Result(**row) for row in baseline["results"]}
        measured_on = baseline["about"]["device"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no baseline: {error}") from None
    if measured_on != device:
        raise InputError(f"{path} was measured on {measured_on}, this is {device}")
    found = []
    for result in results:
        old = before[result.name].ratios if result.name in before else {}
        for peer, ratio in result.ratios.items():
            if ratio < (1 - ALLOWED_LOSS) * old.get(peer, -math.inf):
                found.append(f"{result.name}: {ratio:.3f} of {peer}, was {old[peer]:.3f}")
    return found
