"""A run's last lines: the picture is decoration."""

import pytest

from evaluation import displays
from evaluation.displays import draw, tabulate
from runtime import plot
from runtime.run_folder import RunFolder


@pytest.mark.parametrize("fault", [AttributeError("ft2font"), ModuleNotFoundError("no inline")])
def test_a_picture_that_cannot_be_drawn_is_one_line(fault, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(plot, "plot_run", fail)
    run = RunFolder.create(tmp_path / "r", "x", {})
    said: list[str] = []
    draw(run, said.append)
    assert said == [f"no loss.png: {fault}"]


def test_the_swarm_s_table_goes_where_the_run_s_lines_go(tmp_path, monkeypatch):
    """Printed past the line that changes, it began on that line."""
    said: list[str] = []
    tabulate(tmp_path / "none", said.append)
    monkeypatch.setenv("COLUMNS", "60")
    (tmp_path / "log").write_text("")
    monkeypatch.setattr(displays, "read", lambda _: [])
    tabulate(tmp_path / "log", said.append)
    assert said == ["The swarm changed nothing: 0 cycles, 0 decisions, 0 copies\n  kept"]
