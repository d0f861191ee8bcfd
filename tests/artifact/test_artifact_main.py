"""``python -m artifact inspect`` on a sound file and on others."""

from pathlib import Path

import pytest
import torch

from artifact.__main__ import main
from artifact.export import export


def test_lists_tensors_and_totals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"qo_bank": torch.ones(2, 8, 16), "gain": torch.tensor(1.0)}
    report = export(tmp_path / "a", {"layers": 1}, weights)
    assert main(["inspect", str(tmp_path / "a")]) == 0
    words = capsys.readouterr().out.replace("│", " ").split()
    text = " ".join(words)
    assert '{"layers": 1}' in text
    assert "qo_bank 2 x 8 x 16 int6 288" in text  # 256 codes and 16 steps of two bytes
    assert "gain scalar fp16 2" in text
    assert f"257 values, 290 raw bytes; {report.bytes:,} bytes in the file" in text


def test_anything_else_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_bytes(b"not an artifact")
    assert main(["inspect", str(tmp_path / "a")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
