"""``python -m artifact inspect`` on a sound file and on others."""

import os
import signal
from pathlib import Path

import pytest
import torch

from artifact.__main__ import main
from artifact.export import export
from artifact.inspection import entropy_bits
from artifact.quantisation.parts import PARTS
from artifact.stored import Stored


def test_lists_tensors_and_totals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = torch.tensor([1.0, -1.0, 0.01]).repeat(6)[:16]
    weights = {"qo_bank": row.expand(2, 8, 16), "gain": torch.tensor(1.0)}
    report = export(
        tmp_path / "a", {"layers": 1}, weights, {"qo_bank": "attention", "gain": "small"}
    )
    assert main(["inspect", str(tmp_path / "a")]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert '{"layers": 1}' in text
    assert "qo_bank 2 x 8 x 16 attention int6 0.6" in text  # 0.01 is lost on a step of 1/31
    assert "gain scalar small fp16 0.000%" in text
    assert f"attention int6 {report.streams['attention int6']}" in text
    assert f"2 tensors, 257 parameters; {report.bytes:,} bytes in the file" in text


def test_a_correction_has_no_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"qo_bank": torch.randn(2, 8, 16), f"qo_bank.{PARTS[0]}": torch.randn(2, 8, 3)}
    export(tmp_path / "a", {}, weights, dict.fromkeys(weights, "small"))
    assert main(["inspect", str(tmp_path / "a")]) == 0
    assert "2 tensors, 256 parameters;" in " ".join(capsys.readouterr().out.split())


def test_bytes_of_tensors_are_their_shares_of_the_streams() -> None:
    codes = torch.tensor([[0, 1, 2, 3]] * 8, dtype=torch.int8)
    bits = entropy_bits(Stored("int6", codes, torch.ones(8).half(), role="mlp"))
    assert bits == {"mlp int6": 64.0, "steps fp16": 0.0}


def test_anything_else_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_bytes(b"not an artifact")
    assert main(["inspect", str(tmp_path / "a")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1


def test_a_submission_lies_in_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next submission of the run would have found it there."""
    (tmp_path / "link").symlink_to(tmp_path)
    for out in ("run/out", "run/a/b", "link/run/out", "other/../run/out"):
        command = ["submit", str(tmp_path / "run"), "--out", str(tmp_path / out)]
        assert main(command) == 2
        assert f"{out}: lies in run {tmp_path}/run; choose" in capsys.readouterr().err
    assert main(["submit", str(tmp_path / "run"), "--out", str(tmp_path / "running")]) == 2
    assert "lies in" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--against", "nan"], "--against nan: give a positive number"),
        (["--against", "inf"], "--against inf: give a positive number"),
        (["--against", "-1"], "--against -1.0: give a positive number"),
        (["--against", "0"], "--against 0.0: give a positive number"),
        (["--against", "1", "--against-std", "nan"], "--against-std nan: give a standard"),
        (["--against", "1", "--against-std", "inf"], "--against-std inf: give a standard"),
        (["--against", "1", "--against-std", "-1"], "--against-std -1.0: give a standard"),
        (["--against-seeds", "0"], "--against-seeds 0: give 1 or more"),
        (["--track", "other"], "10min_16mb"),
    ],
)
def test_a_rival_or_track_that_cannot_be_is_one_line(
    tmp_path: Path, given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rival of nan or inf was beaten with p = nan; any other track had no limit of time."""
    assert main(["submit", "run", "--out", str(tmp_path / "out"), *given]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert words in said


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_as_an_interrupt_does(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM left the script's processes running."""

    def killed(*_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr("artifact.submission.submit.submit", killed)
    assert main(["submit", "run", "--out", "out"]) == 128 + number
    assert capsys.readouterr().err == "interrupted\n"
