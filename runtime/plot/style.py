"""What all pictures of runs share: colours, axes, labels that do not overlap."""

import logging
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#222222", "#b8c4d6", "#e6e6e6"
BLUE, ORANGE, GREEN, RED, PINK, SKY = COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
DASHES = ("-", "--", ":", "-.")


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty picture; inches at 120 dots each."""
    # It warns where nobody can write to the home folder, and keeps fonts in a temporary one.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def line_styles(count: int) -> list[dict[str, str]]:
    """Return the colour and the dashes of ``count`` lines, all different up to 24."""
    styles = cycle({"color": c, "linestyle": dashes} for dashes in DASHES for c in COLOURS)
    return list(islice(styles, count))


def tidy(axes: "Axes", label: str) -> None:
    """Name the vertical axis; draw a faint grid, and no box."""
    axes.set_ylabel(label, fontsize=9)
    axes.margins(x=0.01)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)


def save(figure: "Figure", out: Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    with atomic_write(out) as file:
        figure.savefig(file, format="png")


def show_line(axes: "Axes", x: np.ndarray, y: np.ndarray, **style: object) -> None:
    """Draw a line; a line of one point as a dot."""
    marker = "o" if np.isfinite(y).sum() == 1 else ""
    axes.plot(x, y, marker=marker, markersize=4, **style)  # pyright: ignore[reportArgumentType]


def limit_to_settled(axes: "Axes", losses: Sequence[np.ndarray]) -> None:
    """Scale to the settled losses; the first steps and spikes may leave the picture."""
    settled = [loss[len(loss) // 20 :] for loss in losses]
    values = np.concatenate([loss[np.isfinite(loss)] for loss in settled] or [np.empty(0)])
    if values.size > 1:
        low, high = float(np.min(values)), float(np.percentile(values, 99.5))
        margin = 0.05 * (high - low) + 1e-3
        axes.set_ylim(low - margin, high + margin)


def spread(values: Sequence[float], least: float) -> list[float]:
    """Return places near sorted values, each at least ``least`` above the one before."""
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + least) if places else value)
    if places:
        excess = (places[-1] - values[-1]) / 2
        places = [place - excess for place in places]
    return places


def label_scores(axes: "Axes", groups: Sequence[tuple[Mapping[str, float], str]]) -> None:
    """Draw final scores as labelled marks, one above the other, so that none hides another.

    Args:
        axes: for the scores alone.
        groups: bits per byte by name, and the colour, of each run.
    """
    scores = sorted((bpb, name, colour) for group, colour in groups for name, bpb in group.items())
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.spines[["bottom", "right", "top"]].set_visible(False)
    axes.set_title("final scores, bits per byte", fontsize=9, loc="left")
    axes.tick_params(colors=INK, labelsize=8)
    if not scores:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
        return
    values = [bpb for bpb, _, _ in scores]
    height = max((values[-1] - values[0]) * 1.2, 0.004, 0.002 * values[-1])
    places = spread(values, height / 30)
    for (bpb, name, colour), place in zip(scores, places, strict=True):
        axes.plot([0.04], [bpb], marker="o", color=colour, markersize=6, clip_on=False)
        axes.plot([0.06, 0.14], [bpb, place], color=colour, linewidth=0.7)
        axes.text(0.16, place, f"{bpb:.4f}  {name}", fontsize=8, va="center", color=INK)
    low, high = min(places[0], values[0]), max(places[-1], values[-1])
    margin = 0.06 * (high - low) + 1e-3
    axes.set_ylim(low - margin, high + margin)
