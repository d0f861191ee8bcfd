"""One picture of a run: loss, bits per byte and learning rate against time."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from files import atomic_write
from runtime import ROUNDTRIP
from runtime.run_folder import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, BLUE, ORANGE = "#222222", "#b8c4d6", "#1f5fa8", "#d9822b"
COLOURS = {"raw": BLUE, "averaged": "#2f9e5f", ROUNDTRIP: "#c0392b"}
MARKERS = {"plain": "o", "sliding": "s"}


def plot_run(log: Path, out: Path) -> None:
    """Draw ``log`` (a run's log.jsonl) to ``out`` (PNG), whole or not at all.

    It shows the events "step" (step, elapsed in seconds, loss, lr_scale), "validation" (elapsed,
    bpb, weights, method) and "decision" (step, lever, value: a number). A log without them gives
    empty axes.
    """
    from matplotlib.figure import Figure

    events: dict[str, list[dict]] = defaultdict(list)
    for event in read_log(log):
        events[str(event.get("kind"))].append(event)

    figure = Figure(figsize=(9, 8), dpi=120, layout="constrained")
    loss, bpb, rate = figure.subplots(3, 1, sharex=True, height_ratios=(4, 3, 2))
    _draw_loss(loss, events["step"])
    _draw_bpb(bpb, events["validation"])
    _draw_rate(rate, events["step"])
    _mark_decisions((loss, bpb, rate), events["decision"], events["step"])
    loss.set_title(Path(log).resolve().parent.name, fontsize=10, parse_math=False)
    figure.align_ylabels()
    for axes in (loss, bpb, rate):
        axes.margins(x=0.01)
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    rate.set_xlabel("training time (s)")
    with atomic_write(out) as file:
        figure.savefig(file, format="png")


def _draw_loss(axes: Axes, steps: list[dict]) -> None:
    time, loss = _column(steps, "elapsed"), _column(steps, "loss")
    smooth = smoothed(loss, max(1, len(loss) // 40))
    axes.plot(time, loss, color=FAINT, linewidth=0.8, label="each step")
    axes.plot(time, smooth, color=BLUE, linewidth=1.6, label="smoothed")
    axes.set_ylabel("training loss (nats)")
    axes.legend(edgecolor="none", framealpha=0.9, loc="upper right", fontsize=9)
    settled = loss[len(loss) // 20 :]
    settled = settled[np.isfinite(settled)]
    if settled.size > 1:
        # Scale to the settled losses; the first steps and spikes may leave the picture.
        low, high = np.min(settled), np.percentile(settled, 99.5)
        margin = 0.05 * (high - low) + 1e-3
        axes.set_ylim(low - margin, high + margin)


def _draw_bpb(axes: Axes, validations: list[dict]) -> None:
    series: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for event in validations:
        series[str(event.get("weights")), str(event.get("method"))].append(event)
    for (weights, method), points in series.items():
        time, bpb = _column(points, "elapsed"), _column(points, "bpb")
        axes.plot(
            time,
            bpb,
            color=COLOURS.get(weights, INK),
            marker=MARKERS.get(method, "x"),
            markersize=4,
            linewidth=1.2,
            label=f"{weights}, {method}: {bpb[-1]:.4f}",
        )
    axes.set_ylabel("validation (bits per byte)")
    if series:
        axes.legend(edgecolor="none", framealpha=0.9, loc="upper right", fontsize=9)


def _draw_rate(axes: Axes, steps: list[dict]) -> None:
    axes.plot(_column(steps, "elapsed"), _column(steps, "lr_scale"), color=ORANGE, linewidth=1.4)
    axes.set_ylabel("lr scale")
    axes.set_ylim(0, 1.05)


def _mark_decisions(panels: tuple[Axes, ...], decisions: list[dict], steps: list[dict]) -> None:
    numbers, elapsed = _column(steps, "step"), _column(steps, "elapsed")
    if not numbers.size:
        return
    for event in decisions:
        time = np.interp(_number(event, "step"), numbers, elapsed)
        for axes in panels:
            axes.axvline(time, color=INK, linewidth=0.7, linestyle=":", alpha=0.7)
        panels[-1].annotate(
            f"{event.get('lever')} {_number(event, 'value'):g}",
            (time, 0.04),
            xytext=(2, 0),
            textcoords="offset points",
            rotation=90,
            fontsize=7,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
        )


def smoothed(values: np.ndarray, radius: int) -> np.ndarray:
    """Return the mean of the finite values within ``radius`` indices of each; NaN without any."""
    if not values.size:
        return values
    finite = np.isfinite(values)
    window = np.ones(2 * radius + 1)
    total = np.convolve(np.where(finite, values, 0.0), window)[radius:-radius]
    number = np.convolve(finite, window)[radius:-radius]
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)


def _column(events: list[dict], field: str) -> np.ndarray:
    return np.array([_number(event, field) for event in events], dtype=np.float64)


def _number(event: dict, field: str) -> float:
    value = event.get(field)
    return float(value) if isinstance(value, int | float) else np.nan
