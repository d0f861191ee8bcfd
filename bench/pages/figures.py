"""Draw the pictures of README and docs from the committed results.

    python -m bench figures

Each picture is an SVG in docs/figures, in colours that colour-blind readers tell apart. Its caption
names device, commit and file. ``bench/results/`` holds the numbers, ``python -m bench curve`` and
``python -m bench profile`` print those that no other command does.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from bench.pages.results import Table, read_tables
from bench.pages.speed_figure import draw_frontier
from bench.pages.swarm_figures import draw_ladder, draw_rescue
from files import PROJECT, write_text
from runtime.plot.style import BLUE, FAINT, GREEN, INK, ORANGE, PINK, RED, SKY, new_figure, tidy
from swarm.decision_log import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS, FIGURES = PROJECT / "bench" / "results", PROJECT / "docs" / "figures"
CURVES, PUBLIC = "curve-*.md", RESULTS / "pr-1081-h200.md"
KERNELS, PROFILE = RESULTS / "kernels-h200.md", "profile-*.md"
TROUBLE = PROJECT / "tests" / "swarm" / "logs" / "loops.jsonl"
PEERS = {
    "compiled": ORANGE,
    "cuDNN alone": GREEN,
    "FA2 alone": PINK,
    "FlexAttention alone": SKY,
    "unfused": RED,
    "bf16": INK,
    "_scaled_mm alone": FAINT,
}
BOTH = ", both"
# Parts of a step, by what the names of their kernels contain; the first match counts.
PARTS = {
    "attention": r"^(forward|backward_(dq|dkv|prepare))_kernel|rotate",
    "projections with norm and rotary": r"^project_kernel",
    "MLP products with activation": r"^(up|gradient)_kernel",
    "norm and mix": r"norm|column_sums",
    "weight copies": r"quant|scaled_gradients",
    "loss, without products": r"entropy|scale|weighted",
    "embedding": r"embed|sum_(pieces|slots)|lookup|radix|segment|searchsorted",
    "other products (cuBLAS)": r"nvjet|gemm|cutlass|splitK",
}


def main() -> int:
    """Write each picture whose results exist, and print its name."""
    for name, draw in FIGURES_BY_NAME.items():
        figure = draw()
        if figure is not None:
            path = FIGURES / f"{name}.svg"
            path.parent.mkdir(exist_ok=True)
            write_text(path, svg(figure))
            print(path.relative_to(PROJECT))
    return 0


def svg(figure: "Figure") -> str:
    """Return a picture as SVG; equal results make equal text."""
    from matplotlib import rc_context

    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "murmuration", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()


def caption(figure: "Figure", tables: Sequence[Table], text: str) -> None:
    """Write what was measured, on which device and commit, below a picture."""
    sources = "; ".join(
        f"{table.record.get('device', '?')}, {table.record.get('commit', '?')[:7]}, "
        f"{table.path.name}"
        for table in tables
    )
    figure.supxlabel(f"{text}\n{sources}", fontsize=8, color=INK)


def draw_curve() -> "Figure | None":
    """Draw bits per byte against training time, beside the public script's final scores."""
    tables = [table for path in sorted(RESULTS.glob(CURVES)) for table in read_tables(path)]
    if not tables:
        return None
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    for table, colour in zip(tables, (BLUE, GREEN, SKY), strict=False):
        points = [table.cells(row) for row in table.rows]
        time = [float(point["seconds"]) for point in points]
        bpb = [float(point["bpb"]) for point in points]
        axes.plot(
            time, bpb, marker="o", markersize=4, color=colour, label="Murmuration, raw weights"
        )
    (public,) = read_tables(PUBLIC)
    cells = public.cells(public.rows[0])
    seconds = float(cells["steps"]) * float(cells["ms/step"]) / 1e3
    for name, marker in (("raw", "o"), ("sliding", "s"), ("TTT", "^")):
        axes.plot([seconds], [float(cells[name])], marker, color=RED, label=f"PR #1081, {name}")
    axes.set_xlabel("training time (s)")
    tidy(axes, "validation (bits per byte)")
    axes.legend(fontsize=8, edgecolor="none")
    caption(figure, [*tables, public], "The sprint: one GPU, 150 s, 98,304 tokens a step.")
    return figure


def draw_kernels() -> "Figure":
    """Draw each operation's time over its floor, and its peers': of both passes, if timed."""
    table = max(read_tables(KERNELS), key=lambda found: len(found.columns))
    whole = {name.removesuffix(BOTH) for name in table.labels if name.endswith(BOTH)}
    rows = [table.cells(row) for row in table.rows]
    rows = [row for row in rows if name_of(row["contest"]) not in whole or BOTH in row["contest"]]
    figure = new_figure(8, 1.2 + 0.26 * len(rows))
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for place, row in enumerate(rows):
        floor, ours = float(row["floor us"]), float(row["us"])
        axes.barh(place, ours / floor, color=BLUE, height=0.6)
        for peer, colour in PEERS.items():
            found = row.get(f"{peer} us", "-")
            if found != "-":
                axes.plot(float(found) / floor, place, "D", color=colour, markersize=5)
    axes.barh([], [], color=BLUE, label="Murmuration")
    for peer, colour in PEERS.items():
        # A label with an underscore in front would be left out.
        axes.plot([], [], "D", color=colour, label=peer.removeprefix("_"))
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(range(len(rows)), [row["contest"].removesuffix(BOTH) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time / floor (the floor is 1)")
    tidy(axes, "")
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=8, edgecolor="none", loc="lower right")
    caption(
        figure,
        [table],
        "Forward and backward pass if no other is named, 98,304 tokens, medians, peers in turn.",
    )
    return figure


def name_of(contest: str) -> str:
    """Return an operation's name, without the pass that was timed."""
    return contest.rpartition(", ")[0]


def draw_step() -> "Figure | None":
    """Draw where the milliseconds of a forward and backward pass go."""
    paths = sorted(RESULTS.glob(PROFILE))
    if not paths:
        return None
    table = read_tables(paths[0])[0]
    parts: dict[str, float] = defaultdict(float)
    for row in table.rows:
        cells = table.cells(row)
        parts[part_of(cells["kernel"])] += float(cells["ms"])
    names = sorted(parts, key=lambda name: -parts[name])
    figure = new_figure(8, 1.3 + 0.35 * len(names))
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.barh(names, [parts[name] for name in names], color=BLUE, height=0.65)
    for place, name in enumerate(names):
        axes.text(parts[name], place, f" {parts[name]:.1f}", va="center", fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xlabel("ms on the device")
    tidy(axes, "")
    total = sum(parts.values())
    caption(figure, [table], f"Forward and backward pass of 98,304 tokens: {total:.1f} ms in all.")
    return figure


def part_of(kernel: str) -> str:
    """Return the part of a step that a kernel belongs to."""
    matching = (part for part, names in PARTS.items() if re.search(names, kernel))
    return next(matching, "other")


def draw_swarm() -> "Figure":
    """Draw what the swarm saw and decided on a run with trouble."""
    cycles = [record for record in read(TROUBLE) if record["kind"] == "cycle"]
    steps = [record["snapshot"]["step"] for record in cycles]
    figure = new_figure(8, 5.5)
    loss, levers = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    losses = [record["snapshot"]["loss"] for record in cycles]
    loss.plot(steps, losses, color=BLUE, marker="o", markersize=3, label="loss of the last window")
    mark_requests(loss, cycles)
    for name, colour in (("lr_factor", ORANGE), ("clip", GREEN)):
        values = np.array([record["levers"][name] for record in cycles])
        levers.step(steps, values / values.max(), where="post", color=colour, label=name)
    levers.set_ylim(0, 1.1)
    levers.set_xlabel("step")
    for axes, label in ((loss, "training loss (nats)"), (levers, "fraction of largest")):
        tidy(axes, label)
        axes.legend(fontsize=8, edgecolor="none")
    text = "A run of width 64 on a CPU, cbdc977; from step 128 on, 11 visits in place of 3."
    figure.supxlabel(f"{text}\n{TROUBLE.relative_to(PROJECT)}", fontsize=8, color=INK)
    return figure


def mark_requests(axes: "Axes", cycles: Sequence[dict]) -> None:
    """Mark the cycles that took or restored a snapshot of the weights."""
    for lever, colour, label in (("keep", FAINT, "snapshot"), ("rollback", RED, "rollback")):
        steps = [
            record["snapshot"]["step"]
            for record in cycles
            for verdict in record["verdicts"]
            if verdict["lever"] == lever and verdict["after"] != verdict["before"]
        ]
        for index, step in enumerate(steps):
            axes.axvline(step, color=colour, linewidth=1.5, label=None if index else label)


FIGURES_BY_NAME: dict[str, Callable[[], "Figure | None"]] = {
    "bits-per-byte": draw_curve,
    "kernels": draw_kernels,
    "frontier-kernels": draw_frontier,
    "step": draw_step,
    "swarm": draw_swarm,
    "swarm-ladder": draw_ladder,
    "rescue": draw_rescue,
}
