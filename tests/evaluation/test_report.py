"""A run's last lines: the picture is decoration."""

import pytest

from evaluation.report import draw
from runtime import plot
from runtime.run_folder import RunFolder


@pytest.mark.parametrize("fault", [AttributeError("ft2font"), ModuleNotFoundError("no inline")])
def test_a_picture_that_cannot_be_drawn_is_one_line(fault, tmp_path, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(plot, "plot_run", fail)
    run = RunFolder.create(tmp_path / "r", "x", {})
    draw(run)
    assert capsys.readouterr().out == f"no loss.png: {fault}\n"
