"""Print where a step's device time goes.

The table has the device time of every kernel in one forward and backward pass of 98,304 tokens with
a preset's network, the largest first, and how long the device was busy.
"""

from collections import defaultdict
from functools import partial
from typing import Literal

import torch
from torch.autograd import DeviceType

from bench.harness.network import make_model, step
from bench.harness.record import Commit, as_lines, need_gpu, provenance
from bench.harness.sizes import TOKENS, random_tokens
from settings.load import load_settings
from training.schedule import further_weights

STEPS = 3
NAME_WIDTH = 90


def device_times(call) -> dict[str, tuple[int, float]]:
    """Return by kernel: launches and microseconds, both of one call."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as trace:
        for _ in range(STEPS):
            call()
        torch.cuda.synchronize()
    launches, microseconds = defaultdict(int), defaultdict(float)
    for event in trace.events() or ():
        if event.device_type == DeviceType.CUDA:
            launches[event.name] += 1
            microseconds[event.name] += event.device_time
    return {name: (launches[name] // STEPS, microseconds[name] / STEPS) for name in launches}


def main(
    *,
    backend: Literal["kernels", "compiled", "reference"] = "kernels",
    preset: str = "seed",
    precision: Literal["native", "fp8"] = "native",
    commit: Commit = None,
) -> None:
    """Profile one pass and print one row per kernel.

    Args:
        preset: whose network and windows; documents are of about 1,024 tokens
        precision: of the step's products
    """
    need_gpu()
    settings = load_settings(["--preset", preset], {})
    network = {"config": settings.architecture(), "length": settings.train_seq_len}
    if backend == "kernels":
        model = make_model("kernels", **network)
    else:
        model = make_model("reference", attention="cudnn", **network)
    forward = torch.compile(model, dynamic=False) if backend == "compiled" else model
    forward = partial(forward, precision=precision)
    tokens = random_tokens(TOKENS // settings.train_seq_len, settings.train_seq_len + 1)
    call = step(model, forward, tokens, further_weights(settings.mtp_targets, 0.0))
    times = device_times(call)
    total = sum(microseconds for _, microseconds in times.values())
    print(as_lines(provenance(commit)))
    title = f"{backend}, {preset}, {precision}"
    print(f"{title}: {total / 1000:.2f} ms on the device, {len(times)} kernels\n")
    print("| kernel | launches | us each | ms | share |\n|---|---|---|---|---|")
    for name, (launches, us) in sorted(times.items(), key=lambda item: -item[1][1]):
        each = us / max(launches, 1)
        cells = (
            name[:NAME_WIDTH],
            launches,
            f"{each:.1f}",
            f"{us / 1000:.3f}",
            f"{us / total:.1%}",
        )
        print("| " + " | ".join(map(str, cells)) + " |")
