"""Tables keep whole words at any width."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from terminal import console, show


def shown(width: int) -> str:
    table = Table("name", "shape", title="a title", caption="a caption")
    table.add_row("tok_embed.weight", "1,024")
    table.add_row("", "512")
    out = io.StringIO()
    show(table, Console(file=out, width=width, soft_wrap=True))
    return out.getvalue()


def test_a_table_that_fits_is_a_table():
    assert "tok_embed.weight ┃" in shown(40).replace("│", "┃")


@pytest.mark.parametrize("width", [3, 10, 24])
def test_a_table_that_does_not_fit_is_a_line_a_row(width):
    assert shown(width).splitlines() == [
        "a title",
        "name tok_embed.weight, shape 1,024",
        "shape 512",
        "a caption",
    ]


def test_a_pipe_has_no_80_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width > 1000
    monkeypatch.setenv("COLUMNS", "60")
    assert console().width == 60
