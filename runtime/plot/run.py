"""One run in one picture."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.plot.events import Events, column, number, plain, smoothed
from runtime.plot.style import (
    BLUE,
    COLOURS,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    RED,
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

CLOSE = 0.045  # of the width: labels of decisions that are nearer would overlap
HEIGHTS = {"loss": 4.0, "bpb": 2.5, "rate": 2.0, "speed": 1.3}
HEIGHT_OF_A_LEVER = 0.35
ONCE = ("rollback", "rescale")  # decisions that are no levers


def plot_run(log: Path, out: Path) -> None:
    """Draw ``log`` (a run's log.jsonl) to ``out`` (PNG), whole or not at all.

    From the top: loss, validation if the run has a curve of it, learning rate and levers, speed,
    and a row of decisions for each lever that moved. On the right: the final scores. A log without
    such events gives empty axes.
    """
    save(draw_run(Events.read(log)), out)


def draw_run(events: Events) -> "Figure":
    """Return the picture of a run."""
    curves, levers = events.curves(), by_lever(events)
    names = [name for name in HEIGHTS if name != "bpb" or curves]
    heights = [HEIGHTS[name] for name in names]
    if levers:
        names.append("decisions")
        heights.append(0.5 + HEIGHT_OF_A_LEVER * len(levers))
    figure = new_figure(12, 1 + 0.85 * sum(heights))
    grid = figure.add_gridspec(len(names), 2, width_ratios=(4, 1.25), height_ratios=heights)
    panels: dict[str, Axes] = {}
    for row, name in enumerate(names):
        shared = panels.get("loss")
        panels[name] = figure.add_subplot(grid[row, 0], sharex=shared)
        panels[name].tick_params(labelbottom=row == len(names) - 1)
    draw_loss(panels["loss"], events)
    if curves:
        draw_curves(panels["bpb"], curves)
    draw_rate(panels["rate"], events)
    draw_speed(panels["speed"], events)
    if levers:
        draw_decisions(
            panels["decisions"], levers, np.ptp(events.elapsed[np.isfinite(events.elapsed)])
        )
    for axes in panels.values():
        mark_variants(axes, events)
    label_scores(figure.add_subplot(grid[:, 1]), [(events.scores(), BLUE)])
    panels["loss"].set_title(events.name, fontsize=10, loc="left", parse_math=False)
    panels[names[-1]].set_xlabel("training time (s)")
    figure.align_ylabels(list(panels.values()))
    return figure


def by_lever(events: Events) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return seconds and new values of each lever that a decision moved, in order."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    times = events.time_of(events.decisions)
    for event, time in zip(events.decisions, times, strict=True):
        if np.isfinite(time):
            found[plain(str(event.get("lever")))].append((time, number(event, "value")))
    return {lever: (np.array(m)[:, 0], np.array(m)[:, 1]) for lever, m in found.items()}


def draw_loss(axes: "Axes", events: Events) -> None:
    """Draw the training loss, and a mark for each step whose loss is not finite."""
    time, loss = events.elapsed, events.loss
    show_line(axes, time, loss, color=FAINT, linewidth=0.8, label="logged steps")
    if len(loss) > 20:
        smooth = smoothed(loss, max(1, len(loss) // 40))
        show_line(axes, time, smooth, color=BLUE, linewidth=1.6, label="smoothed")
    limit_to_settled(axes, [loss])
    lost = time[~np.isfinite(loss)]
    if lost.size:
        top = np.full(lost.size, 0.97)
        axes.plot(
            lost,
            top,
            linestyle="",
            marker="v",
            color=RED,
            markersize=5,
            transform=axes.get_xaxis_transform(),
            label=f"{lost.size} of {len(loss)} logged steps are not finite",
        )
    tidy(axes, "training loss (nats)")
    legend(axes)


def draw_curves(axes: "Axes", curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw validations during the run."""
    for (name, (time, bpb)), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        axes.plot(time, bpb, color=colour, marker="o", markersize=3.5, linewidth=1.3, label=name)
    tidy(axes, "validation (bits per byte)")
    legend(axes)


def draw_rate(axes: "Axes", events: Events) -> None:
    """Draw the schedule of the learning rate, and each lever as a fraction of its largest value."""
    rate = column(events.steps, "lr_scale")
    show_line(axes, events.elapsed, rate, color=ORANGE, linewidth=1.6, label="learning rate")
    levers = {name: moves for name, moves in by_lever(events).items() if name not in ONCE}
    styles = [style for style in line_styles(2 * len(levers) + 2) if style["color"] != ORANGE]
    for style, (name, (times, values)) in zip(styles, levers.items(), strict=False):
        largest = np.nanmax(np.abs(values), initial=0.0) or 1.0
        end = events.elapsed[-1] if events.steps else times[-1]
        x, y = np.append(times, max(end, times[-1])), np.append(values, values[-1]) / largest
        axes.step(x, y, where="post", linewidth=1.1, label=name, **style)  # pyright: ignore[reportArgumentType]
    axes.set_ylim(0, 1.08)
    tidy(axes, "fraction of largest")
    legend(axes)


def draw_speed(axes: "Axes", events: Events) -> None:
    """Draw tokens a second."""
    rate = column(events.steps, "tokens_per_second")
    show_line(axes, events.elapsed, rate / 1e3, color=GREEN, linewidth=1.2)
    axes.set_ylim(bottom=0)
    tidy(axes, "1,000 tokens/s")


def draw_decisions(
    axes: "Axes", levers: dict[str, tuple[np.ndarray, np.ndarray]], span: float
) -> None:
    """Draw a row for each lever; a decision is a mark with its value.

    Args:
        axes: of the row.
        levers: of `by_lever`.
        span: seconds of the whole picture; of decisions that are close the first has a label.
    """
    names = list(levers)
    for row, name in enumerate(names):
        times, values = levers[name]
        axes.plot(
            times, np.full(len(times), row), linestyle="", marker="|", color=INK, markersize=9
        )
        labelled = -np.inf
        for time, value in zip(times, values, strict=True):
            if time - labelled > CLOSE * span:
                axes.annotate(
                    f"{value:.3g}",
                    (time, row),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                    color=INK,
                )
                labelled = time
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    tidy(axes, "decisions")


def mark_variants(axes: "Axes", events: Events) -> None:
    """Draw a line where the step's variant changes."""
    for time in events.time_of(events.variants[1:]):
        if np.isfinite(time):
            axes.axvline(time, color=INK, linewidth=0.8, linestyle="--", alpha=0.6)


def legend(axes: "Axes") -> None:
    """Draw the legend outside of the data's way, if there are labels."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(edgecolor="none", framealpha=0.85, loc="best", fontsize=8, ncols=2)
