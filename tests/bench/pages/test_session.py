"""The recorded session has the commands that its script types, and no path of the machine."""

import re
from pathlib import Path

from bench.pages.session import KEPT, PAGE, STEPS, cut, typed


def test_the_page_has_every_command_in_order():
    typed_there = [line[2:] for line in PAGE.read_text().splitlines() if line.startswith("$ ")]
    assert typed_there == [command for commands in STEPS.values() for command in commands]
    assert re.search(r" at commit [0-9a-f]{7,12}, ", PAGE.read_text())
    assert "Traceback" not in PAGE.read_text() and "/tmp/" not in PAGE.read_text()


def test_a_long_output_is_cut_in_the_middle():
    first, last = KEPT
    lines = [f"{number} " for number in range(first + last + 5)]
    found = cut("\n".join(lines), Path("/nowhere"))
    assert found[first] == "[5 lines]"
    assert len(found) == first + last + 1
    assert found[-1] == f"{first + last + 4}"


def test_what_is_typed_runs_in_the_clone(tmp_path):
    assert cut(typed("pwd", tmp_path)[1], tmp_path) == ["~"]
    (tmp_path / "murmuration").mkdir()
    assert cut(typed("pwd; exit 3", tmp_path)[1], tmp_path) == ["~/murmuration"]
    assert typed("exit 3", tmp_path) == (3, "")
