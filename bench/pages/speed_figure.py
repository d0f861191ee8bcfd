"""The picture of the frontier's kernels: the time of each over its floor."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bench.pages.swarm_figures import RESULTS, caption, name_rows
from runtime.plot.style import BLUE, INK, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPEED = RESULTS / "frontier-speed.json"
BAR = 2.0  # times a floor, which no kernel should take


def draw_frontier(path: Path = SPEED) -> "Figure | None":
    """Draw the time of each kernel over its floor, those over the bar in another colour."""
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ratios = result.get("kernels")
    if not ratios:
        return None
    figure = new_figure(8, 1.4 + 0.26 * len(ratios))
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for place, ratio in enumerate(ratios.values()):
        axes.barh(place, ratio, color=ORANGE if ratio > BAR else BLUE, height=0.6)
        axes.text(ratio, place, f" {ratio:.2f}", va="center", fontsize=8, color=INK)
    for line, style in ((1, "-"), (BAR, "--")):
        axes.axvline(line, color=INK, linewidth=1, linestyle=style)
    name_rows(axes, list(ratios))
    axes.set_xlabel("time / floor (the floor is 1, the bar 2)")
    caption(figure, result, path, "Operations at the sizes of preset frontier-sprint, medians.")
    return figure
