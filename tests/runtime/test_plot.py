import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from files import PROJECT
from runtime.plot import Events, plot_run, plot_runs
from runtime.plot.__main__ import main
from runtime.plot.events import smoothed
from runtime.plot.run import draw_run
from runtime.plot.style import BLUE, GREEN, ORANGE, RED, spread


def step(number: int, **changes: object) -> dict:
    loss = 3.3 + 4 * math.exp(-number / 40) + 0.1 * math.sin(number * 1.7)
    scale = min(1.0, (400 - number) / 150)
    event = {"step": number, "elapsed": 0.4 * number, "loss": loss, "lr_scale": scale}
    return {"kind": "step", "tokens_per_second": 1e6} | event | changes


def validation(number: int, weights: str, **changes: object) -> dict:
    bpb = 1.2 + 0.5 * math.exp(-number / 80)
    event = {"step": number, "elapsed": 0.4 * number, "bpb": bpb}
    return {"kind": "validation", "weights": weights, "method": "plain"} | event | changes


DECISION = {"kind": "decision", "step": 200, "lever": "clip", "value": 0.15}
STEPS = [step(number) for number in range(400)]


def draw(folder: Path, events: list[dict]) -> np.ndarray:
    """The picture of a log, (height, width, 3) in [0, 1]."""
    log, out = folder / "log.jsonl", folder / "loss.png"
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    plot_run(log, out)
    return matplotlib.image.imread(out)[:, :, :3]


def shows(picture: np.ndarray, colour: str) -> bool:
    return bool((np.abs(picture - np.array(to_rgb(colour))).max(axis=-1) < 0.02).sum() > 20)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [step(0)],
        [step(0), step(1)],
        [step(n, loss=None, lr_scale=None) for n in range(9)],
        [{"kind": "step"}, {"kind": "decision", "step": 3}, {"kind": "validation"}, {}],
        [validation(0, "raw"), DECISION],
    ],
    ids=["empty", "one step", "two steps", "no finite loss", "fields missing", "no step"],
)
def test_a_poor_log_gives_a_picture_too(tmp_path: Path, events: list[dict]) -> None:
    assert draw(tmp_path, events).std() > 0.01, "not even axes"


def figure_of(folder: Path, events: list[dict]):
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    figure = draw_run(Events.read(log))
    FigureCanvasAgg(figure).draw()
    return figure


def labels(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_each_kind_of_event_is_seen(tmp_path: Path) -> None:
    for colour in (BLUE, ORANGE, GREEN):
        assert shows(draw(tmp_path, STEPS), colour)
    assert not shows(draw(tmp_path, STEPS), RED)
    assert shows(draw(tmp_path, [*STEPS, step(400, loss=None)]), RED), "a loss that is not finite"


def test_each_final_score_has_a_label_in_the_picture(tmp_path: Path) -> None:
    scores = [validation(399, weights) for weights in ("raw", "averaged", "roundtrip")]
    figure = figure_of(tmp_path, [*STEPS, *scores, validation(399, "roundtrip", method="sliding")])
    found = [label for label in labels(figure) if "1.20" in label]
    assert len(found) == 4
    width, height = figure.bbox.width, figure.bbox.height
    boxes = [
        text.get_window_extent()
        for axes in figure.axes
        for text in axes.texts
        if "1.20" in text.get_text()
    ]
    for box in boxes:
        assert box.x1 < width
        assert 0 < box.y0 < box.y1 < height
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


@pytest.mark.parametrize("count", [30, 30_000])
def test_a_run_of_any_length_has_a_curve_of_its_validations(tmp_path: Path, count: int) -> None:
    shown = [step(number, elapsed=0.05 * number) for number in range(0, count, count // 30)]
    curve = [validation(number, "raw") for number in range(0, count, count // 10)]
    figure = figure_of(tmp_path, [*shown, *curve])
    names = [axes.get_ylabel() for axes in figure.axes]
    assert "validation (bits per byte)" in names
    assert np.asarray(figure.axes[1].lines[0].get_xdata()).size == len(curve)
    assert "validation (bits per byte)" not in [
        axes.get_ylabel() for axes in figure_of(tmp_path, shown).axes
    ]


def test_labels_of_decisions_do_not_overlap(tmp_path: Path) -> None:
    moves = [DECISION | {"step": 100 + n, "value": 1 / (n + 1)} for n in range(50)]
    moves += [DECISION | {"lever": "lr_factor", "step": 120, "value": 0.5}]
    figure = figure_of(tmp_path, [*STEPS, *moves])
    panel = next(axes for axes in figure.axes if axes.get_ylabel() == "decisions")
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["clip", "lr_factor"]
    boxes = [text.get_window_extent() for text in panel.texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_a_decision_is_marked_at_the_time_of_its_step(tmp_path: Path) -> None:
    figure = figure_of(tmp_path, [*STEPS, DECISION])
    panel = next(axes for axes in figure.axes if axes.get_ylabel() == "decisions")
    assert np.allclose(np.asarray(panel.lines[0].get_xdata()), [0.4 * 200])
    assert [text.get_text() for text in panel.texts] == ["0.15"]


def test_several_runs_are_drawn_in_one_picture(tmp_path: Path, capsys) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        events = [*STEPS, validation(200, "raw"), validation(399, "raw")]
        (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    out = tmp_path / "both.png"
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    picture = matplotlib.image.imread(out)[:, :, :3]
    assert shows(picture, BLUE)
    assert shows(picture, ORANGE)
    plot_runs([tmp_path / "a" / "log.jsonl"] * 3, out)


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is no run folder")
    assert main([]) == 2


def test_a_notebooks_backend_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(STEPS[0]))
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, "-m", "runtime.plot", str(tmp_path)]
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "loss.png").is_file()


def test_labels_keep_their_distance() -> None:
    places = spread([1.0, 1.01, 1.02, 3.0], 0.5)
    assert all(b - a >= 0.499 for a, b in pairwise(places))


def test_smoothing_is_the_mean_of_finite_neighbours_and_keeps_gaps() -> None:
    values = np.array([1.0, np.nan, 3.0, 8.0])
    np.testing.assert_allclose(smoothed(values, 1), [1.0, np.nan, 5.5, 5.5])
    assert np.isnan(smoothed(np.full(3, np.nan), 1)).all()
