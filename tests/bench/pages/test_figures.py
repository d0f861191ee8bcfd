"""The committed pictures are those of the committed results."""

import json
import re

import pytest

from bench.pages import figures, speed_figure, swarm_figures


@pytest.mark.parametrize("name", figures.FIGURES_BY_NAME)
def test_a_picture_shows_the_committed_results(name: str):
    figure = figures.FIGURES_BY_NAME[name]()
    path = figures.FIGURES / f"{name}.svg"
    assert (figure is not None) == path.is_file()
    if figure is not None:
        # Fonts differ from machine to machine, and with them places; the texts do not.
        drawn, committed = figures.svg(figure), path.read_text(encoding="utf-8")
        assert texts(drawn) == texts(committed), "run python -m bench figures"


def texts(svg: str) -> list[str]:
    """The texts of a picture, in order."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_ladder_and_dead_runs_are_drawn(tmp_path):
    record = {"device": "a GPU", "commit": "abc"}
    less = {"mean": -0.01, "sd": 0.001, "n": 4}
    rows = [{"name": name, "n": 4, "less_A": less} for name in ("A", "B, lean", "C", "Y")]
    ladder = tmp_path / "ladder.json"
    ladder.write_text(json.dumps({**record, "rows": rows}), encoding="utf-8")
    figure = swarm_figures.draw_ladder(ladder)
    assert figure is not None
    drawn = texts(figures.svg(figure))
    assert "C (n = 4)" in drawn and "A (n = 4)" not in drawn
    assert swarm_figures.draw_ladder(tmp_path / "none.json") is None
    spikes: dict = {"trouble": "spikes", "dead": 0}
    arms = [{**spikes, "arm": "O", "mean": 1.2}, {**spikes, "arm": "S", "mean": 1.21}]
    arms.append({**spikes, "arm": "F0", "mean": None, "dead": 2})
    rescue = tmp_path / "rescue.json"
    rescue.write_text(json.dumps({**record, "rows": arms}), encoding="utf-8")
    figure = swarm_figures.draw_rescue(rescue)
    assert figure is not None
    drawn = texts(figures.svg(figure))
    assert "spikes" in drawn and "swarm" in drawn
    assert any(text.startswith("dead: F0") for text in drawn)


def test_kernels_over_the_bar_have_another_colour(tmp_path):
    speed = tmp_path / "speed.json"
    assert speed_figure.draw_frontier(speed) is None
    record = {"device": "a GPU", "commit": "abc", "kernels": {"norm": 1.25, "embed": 7.5}}
    speed.write_text(json.dumps(record), encoding="utf-8")
    figure = speed_figure.draw_frontier(speed)
    assert figure is not None
    colours = [patch.get_facecolor() for patch in figure.axes[0].patches]
    assert len(set(colours)) == 2
    assert {"norm", "embed", " 7.50"} <= set(texts(figures.svg(figure)))


def test_each_part_of_a_step_has_kernels():
    assert figures.part_of("backward_dkv_kernel") == "attention"
    assert figures.part_of("nvjet_hsh_128x256") == "other products (cuBLAS)"
    assert figures.part_of("void at::native::fill") == "other"
