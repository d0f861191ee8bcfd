"""The committed pictures are those of the committed results."""

import re

import pytest

from bench.pages import figures


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


def test_each_part_of_a_step_has_kernels():
    assert figures.part_of("backward_dkv_kernel") == "attention"
    assert figures.part_of("nvjet_hsh_128x256") == "other products (cuBLAS)"
    assert figures.part_of("void at::native::fill") == "other"
