"""Several runs in one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.plot.events import Events, column, smoothed
from runtime.plot.style import (
    label_scores,
    limit_to_settled,
    line_styles,
    new_figure,
    save,
    show_line,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "loss": "training loss, smoothed (nats)",
    "bpb": "validation (bits per byte)",
    "speed": "1,000 tokens/s",
}


def plot_runs(logs: Sequence[Path], out: Path) -> None:
    """Draw runs (their log.jsonl) against training time to ``out`` (PNG), whole or not at all."""
    save(draw_runs([Events.read(log) for log in logs]), out)


def draw_runs(runs: Sequence[Events]) -> "Figure":
    """Return the picture of runs: smoothed loss, validation, speed, and final scores."""
    figure = new_figure(12, 9)
    heights = {"loss": 4.0, "bpb": 3.0, "speed": 1.5}
    if not any(run.curves() for run in runs):
        del heights["bpb"]
    grid = figure.add_gridspec(
        len(heights), 2, width_ratios=(4, 1.6), height_ratios=list(heights.values())
    )
    panels: dict[str, Axes] = {}
    for row, name in enumerate(heights):
        panels[name] = figure.add_subplot(grid[row, 0], sharex=panels.get("loss"))
    styles = line_styles(len(runs))
    for run, style in zip(runs, styles, strict=True):
        draw_one(panels, run, style)
    limit_to_settled(panels["loss"], [run.loss for run in runs])
    panels["speed"].set_ylim(bottom=0)
    panels["speed"].set_xlabel("training time (s)")
    for name, axes in panels.items():
        tidy(axes, LABELS[name])
        if axes.get_legend_handles_labels()[0]:
            axes.legend(edgecolor="none", framealpha=0.85, fontsize=8, loc="best")
    groups = [
        ({f"{run.name}: {name}": score for name, score in run.scores().items()}, style["color"])
        for run, style in zip(runs, styles, strict=True)
    ]
    label_scores(figure.add_subplot(grid[:, 1]), groups)
    return figure


def draw_one(panels: Mapping[str, "Axes"], run: Events, style: Mapping[str, str]) -> None:
    """Draw one run's lines."""
    smooth = smoothed(run.loss, max(1, len(run.loss) // 40))
    show_line(panels["loss"], run.elapsed, smooth, linewidth=1.5, label=run.name, **style)
    for name, (time, score) in run.curves().items():
        label = f"{run.name}: {name}"
        panels["bpb"].plot(time, score, marker="o", markersize=3, label=label, **style)  # pyright: ignore[reportArgumentType]
    rate = column(run.steps, "tokens_per_second") / 1e3
    show_line(panels["speed"], run.elapsed, rate, linewidth=1.2, **style)
