"""The pictures of what the swarm is worth: the ladder, and the troubles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from files import PROJECT
from runtime.plot.style import BLUE, FAINT, GREEN, INK, ORANGE, PINK, RED, SKY, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = PROJECT / "bench" / "results"
LADDER = RESULTS / "swarm-ladder.json"
RESCUES = (RESULTS / "rescue.json", RESULTS / "rescue-tiny-cpu.json")  # the first there is
ARMS = {
    "F0": (INK, "o", "fixed"),
    "F1": (ORANGE, "s", "fixed, ZClip"),
    "F2": (PINK, "D", "fixed, AdaGC"),
    "Y": (SKY, "v", "yoked"),
    "S": (BLUE, "^", "swarm"),
}


def draw_ladder(path: Path = LADDER) -> "Figure | None":
    """Draw each rung's bits per byte less A's, with the standard error of the difference."""
    if not path.exists():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for row in result["rows"] if row["name"] != "A"]
    figure = new_figure(8, 1.4 + 0.35 * len(rows))
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for place, row in enumerate(rows):
        less = row["less_A"]
        error = (less["sd"] or 0.0) / less["n"] ** 0.5
        colour = {"C": BLUE, "Y": SKY}.get(row["name"], GREEN)
        axes.barh(place, less["mean"], xerr=error, color=colour, height=0.6, ecolor=INK)
    axes.axvline(0, color=INK, linewidth=1)
    name_rows(axes, [f"{row['name']} (n = {row['n']})" for row in rows])
    axes.set_xlabel("bits per byte less those of A")
    caption(
        figure,
        result,
        path,
        "A: fixed; A': other schedules; B: levers by tables; C: agents; Y: yoked.",
    )
    return figure


def draw_rescue(path: Path | None = None) -> "Figure | None":
    """Draw how far each arm is behind a run that was told of its trouble."""
    path = path or next((each for each in RESCUES if each.exists()), None)
    if path is None:
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    cells = {(row["trouble"], row["arm"]): row for row in result["rows"]}
    troubles = [name for name in dict.fromkeys(name for name, _ in cells) if name != "none"]
    figure = new_figure(8, 1.8 + 0.45 * len(troubles))
    axes = figure.add_subplot()
    shown = [arm for arm in ARMS if any((trouble, arm) in cells for trouble in troubles)]
    for arm in shown:
        colour, marker, label = ARMS[arm]
        points = [
            (cells[trouble, arm]["mean"] - cells[trouble, "O"]["mean"], place)
            for place, trouble in enumerate(troubles)
            if None not in (mean_of(cells, trouble, arm), mean_of(cells, trouble, "O"))
        ]
        shift = 0.12 * (shown.index(arm) - (len(shown) - 1) / 2)
        behind, places = zip(*points, strict=True) if points else ((), ())
        heights = [place + shift for place in places]
        axes.plot(behind, heights, marker, color=colour, markersize=6, label=label)
    axes.axvline(0, color=FAINT, linewidth=1)
    mark_dead(axes, cells, troubles)
    name_rows(axes, troubles)
    axes.set_ylim(len(troubles) - 0.5, -0.5)
    axes.set_xlabel("bits per byte over those of a run that was told")
    axes.legend(fontsize=8, edgecolor="none")
    caption(figure, result, path, "Runs with a planted trouble, means over seeds.")
    return figure


def mean_of(cells: Mapping[tuple[str, str], Any], trouble: str, arm: str) -> float | None:
    """Return an arm's mean; None if it has none."""
    return cells.get((trouble, arm), {}).get("mean")


def mark_dead(axes: "Axes", cells: Mapping[tuple[str, str], Any], troubles: list[str]) -> None:
    """Write which arms had runs that left nothing."""
    for place, trouble in enumerate(troubles):
        dead = [arm for arm in ARMS if cells.get((trouble, arm), {}).get("dead")]
        if dead:
            text = f"dead: {', '.join(dead)} "
            across = axes.get_yaxis_transform()
            axes.text(1, place, text, color=RED, fontsize=8, ha="right", transform=across)


def name_rows(axes: "Axes", names: list[str]) -> None:
    """Name the rows of a picture, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    tidy(axes, "")
    axes.tick_params(axis="y", labelsize=8)


def caption(figure: "Figure", result: Mapping[str, Any], path: Path, text: str) -> None:
    """Write what was measured, where and from which commit."""
    source = f"{result['device']}, {result['commit']}, {path.name}"
    figure.supxlabel(f"{text}\n{source}", fontsize=8, color=INK)
