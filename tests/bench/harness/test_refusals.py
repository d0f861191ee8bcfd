"""What a series refuses before its first run: one line, and no process has started."""

from pathlib import Path

import pytest

from bench.__main__ import main as bench
from bench.harness import runs
from bench.rescue import rescue
from bench.studies import sprint

SERIES = (
    ("sprint",),
    ("ablate",),
    ("parts",),
    ("ladder",),
    ("portfolio",),
    ("trials", "--preset", "tiny", "--trial", "a: --muon-wd 0.1"),
    ("rescue", "--seeds", "1"),
)


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runs, "ProcessPoolExecutor", lambda *asked: pytest.fail("a process"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", SERIES, ids=lambda command: command[0])
def test_a_folder_without_data_is_refused(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench([*command, "--data", "/nope"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: /nope: no such data folder") and said.err.count("\n") == 1
    assert not said.out


@pytest.mark.parametrize(
    "command",
    [
        ["clock", "x", "--out", "/nope/a", "--", "--preset", "tiny"],
        ["edges", "--data", "/nowhere", "--out", "/nope/a"],
        ["submission", "--run", "/nowhere", "--out", "/nope/a"],
        ["hold_out", "/nowhere.txt", "--train", "/nope/a", "--held", "b"],
    ],
    ids=lambda command: command[0],
)
def test_a_result_that_cannot_be_written_is_refused_first(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It was refused once all was measured."""
    assert bench(command) == 2
    assert capsys.readouterr().err.startswith("error: /nope/a: cannot be written")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--out", "/nope/table.md"), "/nope/table.md: cannot be written"),
        (("--out", "."), ".: cannot be written"),
        (("--out", f"{__file__}/table.md"), "/table.md: cannot be written"),
        (("--", "--kg-scores", "/nope.scores"), "/nope.scores"),
        (("--", "--vocab-size", "1024"), "has 8192 tokens"),
        (("--", "--agents-off", "nobody"), "nobody"),
    ],
)
def test_what_a_later_run_could_not_do_is_refused(
    random_folder: Path, given: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["trials", "--preset", "tiny", "--data", str(random_folder)]
    assert bench([*command, "--trial", "a: --muon-wd 0.1", *given]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("text", ["", '{"rows": [', "[]", '{"rows": [{"n": 1}]}'])
@pytest.mark.parametrize(
    "command",
    [
        ["parts", "--parts", "gates", "--rows"],
        ["portfolio", "--conditions", "20 s", "--out"],
        ["sprint", "--protocol", "open"],
    ],
    ids=lambda command: command[0],
)
def test_a_damaged_result_is_refused_before_a_run_adds_to_it(
    command: list[str], text: str, random_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """The first run was made, and then lost its row to a traceback."""
    result = tmp_path / "result.json"
    result.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sprint, "RESULT", result)
    place = [] if command[0] == "sprint" else [str(result)]
    assert bench([*command, *place, "--data", str(random_folder)]) == 2
    error = capsys.readouterr().err
    assert f"{result}: " in error and "move it away" in error and error.count("\n") == 1
    assert result.read_text(encoding="utf-8") == text


def test_a_damaged_list_of_scorings_is_refused_first(
    random_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    sealed = tmp_path / "sealed.json"
    sealed.write_text("[{", encoding="utf-8")
    monkeypatch.setattr(rescue, "SEALED", sealed)
    assert bench(["rescue", "--data", str(random_folder), "--seeds", "1"]) == 2
    error = capsys.readouterr().err
    assert f"{sealed}: " in error and error.count("\n") == 1
