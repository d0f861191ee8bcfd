"""Tables keep whole words at any width."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from swarm.report import decisions_table
from swarm.simulate import SyntheticRun, simulate
from terminal import console, show
from tests.swarm.small import steering


def shown(width: int) -> str:
    table = Table("name", "shape", title="a title", caption="a caption")
    table.add_row("tok_embed.weight", "1,024")
    table.add_row("", "512")
    out = io.StringIO()
    show(table, Console(file=out, width=width, soft_wrap=True))
    return out.getvalue()


def test_a_table_that_fits_is_a_table():
    assert "tok_embed.weight ┃" in shown(40).replace("│", "┃")


def test_a_table_loses_its_borders_before_its_columns():
    assert shown(23).split("\n")[1].split() == ["name", "shape"]
    assert "┃" in shown(28) and "┃" not in shown(27)


@pytest.mark.parametrize("width", [3, 10, 22])
def test_a_table_that_does_not_fit_is_a_paragraph_a_row(width):
    lines = shown(width).splitlines()
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    # A line that is indented belongs to the one above.
    assert "\n".join(lines).replace("\n  ", " ").splitlines() == [
        "a title",
        "name tok_embed.weight, shape 1,024",
        "shape 512",
        "a caption",
    ]


@pytest.mark.parametrize("width", [20, 60, 61, 70, 79, 82, 90, 120])
def test_words_are_whole_at_any_width(width):
    """Rich folds words of a column that it made narrower than they are."""
    made_up = SyntheticRun("divergence")
    table = decisions_table(simulate(steering(), made_up, made_up.obey))
    table.title = "Kernels of an operation [b]"
    words = {
        word for column in table.columns for cell in column.cells for word in str(cell).split()
    }
    out = io.StringIO()
    show(table, Console(file=out, width=width, soft_wrap=True, markup=False))
    text = re.sub("[│┃]", " ", out.getvalue())
    assert max(map(len, text.splitlines())) <= width
    assert {word.strip(",") for word in words} - {word.strip(",") for word in text.split()} == set()
    assert "[b]" in text


def test_a_text_is_a_paragraph():
    out = io.StringIO()
    show("one two [red]three[/]", Console(file=out, width=8, soft_wrap=True))
    assert out.getvalue() == "one two\n  three\n"


def test_a_pipe_has_no_80_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width > 1000
    monkeypatch.setenv("COLUMNS", "60")
    assert console().width == 60
