"""Weights to a file and back: who is coded how, how exactly, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from artifact.container import read
from artifact.export import export, load
from artifact.quantise import dequantise, quantise_rows
from errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = {"layers": 2, "width": 32}


def some_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "qo_bank": torch.randn(4, 32, 32, generator=generator) * 0.3,
        "tok_emb": torch.randn(1024, 65, generator=generator) * 0.01,
        "bigram_proj": torch.randn(1024, 64, generator=generator),
        "mix": torch.randn(2, 2, 32, generator=generator),
        "skips": torch.empty(0, 32),
        "scale": torch.tensor(0.05),
        "huge": torch.tensor([1e6, 1.0]),
    }


def test_each_weight_is_stored_by_its_role(tmp_path: Path) -> None:
    export(tmp_path / "a", ARCHITECTURE, some_weights())
    kinds = {name: stored.kind for name, stored in read(tmp_path / "a")[1].items()}
    assert kinds == {
        "qo_bank": "int6",
        "tok_emb": "int8",
        "bigram_proj": "fp16",  # 65,536 elements are not more than 65,536
        "mix": "fp16",
        "skips": "fp16",
        "scale": "fp16",
        "huge": "fp32",
    }


def test_weights_come_back_as_quantised(tmp_path: Path) -> None:
    weights = some_weights()
    export(tmp_path / "a", ARCHITECTURE, weights)
    architecture, restored = load(tmp_path / "a")
    expected = {name: weight.half().float() for name, weight in weights.items()}
    expected["huge"] = weights["huge"]
    bank = quantise_rows(weights["qo_bank"], 6, min_step=1 / 31)
    expected["qo_bank"] = dequantise(*bank, torch.float32)
    expected["tok_emb"] = dequantise(*quantise_rows(weights["tok_emb"], 8), torch.float32)
    assert architecture == ARCHITECTURE
    torch.testing.assert_close(restored, expected, rtol=0, atol=0)
    assert all(weight.dtype == torch.float32 for weight in restored.values())


def test_bits_and_step_are_obeyed(tmp_path: Path) -> None:
    weights = some_weights()
    export(tmp_path / "a", {}, weights, matrix_bits=4, table_bits=5, min_step=0.25)
    tensors = read(tmp_path / "a")[1]
    bank, table = tensors["qo_bank"], tensors["tok_emb"]
    assert (bank.kind, table.kind) == ("int4", "int5")
    assert bank.values.abs().max() <= 7 and table.values.abs().max() == 15
    assert bank.scale is not None and table.scale is not None
    assert bank.scale.min() == 0.25 and table.scale.max() < 0.25


def test_report_counts_the_file(tmp_path: Path) -> None:
    report = export(tmp_path / "a", ARCHITECTURE, some_weights())
    assert report.bytes == (tmp_path / "a").stat().st_size == sum(report.kinds.values())
    assert set(report.kinds) == {"header", "int6", "int8", "fp16", "fp32"}
    assert report.seconds > 0


def test_mtp_heads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mtp_heads: multi-token-prediction"):
        export(tmp_path / "a", {}, {"mtp_heads": torch.ones(2, 4, 8)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_diverged_model_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError, match="qo_bank is not finite"):
        export(tmp_path / "a", {}, {"qo_bank": torch.full((1, 2, 2), value)})


def test_loads_anywhere_with_the_file_and_the_code_alone(tmp_path: Path) -> None:
    """Another process, another working directory, and no package of the project but two."""
    export(tmp_path / "a", ARCHITECTURE, some_weights())
    program = (
        "import sys, json; from pathlib import Path\n"
        "from artifact.export import load\n"
        "architecture, weights = load(Path('a'))\n"
        "from artifact.code_size import code_bytes\n"
        "paths = map(Path, code_bytes(Path(sys.argv[1])))\n"
        "used = {path.parts[0] for path in paths if path.suffix == '.py'}\n"
        "total = sum(weight.double().sum().item() for weight in weights.values())\n"
        "print(json.dumps([architecture, sorted(used), total]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(ROOT)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    total = sum(weight.double().sum().item() for weight in load(tmp_path / "a")[1].values())
    assert json.loads(run.stdout) == [ARCHITECTURE, ["artifact", "errors.py", "files.py"], total]
