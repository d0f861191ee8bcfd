import json
import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from runtime import plot
from runtime.plot import plot_run, smoothed


def step(number: int, **changes: object) -> dict:
    loss = 3.3 + 4 * math.exp(-number / 40) + 0.1 * math.sin(number * 1.7)
    scale = min(1.0, (400 - number) / 150)
    event = {"step": number, "elapsed": 0.4 * number, "loss": loss, "lr_scale": scale}
    return {"kind": "step", "tokens_per_second": 1e6} | event | changes


def validation(number: int, weights: str) -> dict:
    bpb = 1.2 + 0.5 * math.exp(-number / 80)
    event = {"step": number, "elapsed": 0.4 * number, "bpb": bpb}
    return {"kind": "validation", "weights": weights, "method": "plain"} | event


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


def test_each_kind_of_event_is_seen(tmp_path: Path) -> None:
    plain = draw(tmp_path, STEPS)
    assert shows(plain, plot.BLUE)
    assert shows(plain, plot.ORANGE)
    for weights in ("averaged", "roundtrip"):
        colour = plot.COLOURS[weights]
        assert not shows(plain, colour)
        assert shows(draw(tmp_path, [*STEPS, validation(200, weights)]), colour)


def test_a_decision_is_marked_at_the_time_of_its_step(tmp_path: Path) -> None:
    plain, marked = draw(tmp_path, STEPS), draw(tmp_path, [*STEPS, DECISION])
    changed = np.flatnonzero(np.abs(marked - plain).max(axis=(0, 2)) > 0.1)
    left, right = changed[[0, -1]] / plain.shape[1]
    assert right - left < 0.03, "a line and its label, and nothing else"
    assert 0.51 < left < 0.55, "step 200 of 400 is at the middle of the axes"


def test_smoothing_is_the_mean_of_finite_neighbours() -> None:
    values = np.array([1.0, np.nan, 3.0, 8.0])
    np.testing.assert_allclose(smoothed(values, 1), [1.0, 2.0, 5.5, 5.5])
    assert np.isnan(smoothed(np.full(3, np.nan), 1)).all()
