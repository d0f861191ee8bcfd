"""Bad input is one line and exit code 2."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from files import PROJECT
from tests.train.runs import train


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no data"),
        (["--data", "/does/not/exist"], "/does/not/exist"),
        (["--data", "DATA", "--vocab-size", "299"], "300"),
        (["--data", "DATA", "--bos-id", "2"], "bos_id 2"),
        (["--data", "DATA", "--device", "cuda"], "no GPU"),
        (["--data", "DATA", "--tokenizer", "/no/model"], "/no/model"),
        (["--data", "DATA", "--backend", "kernels", "--model-dim", "64"], "needs a CUDA GPU"),
        (["--data", "DATA", "--attention-backend", "kernels"], "needs --backend kernels"),
        (["--data", "DATA", "--stages", "[{until=0.5}]"], "must have until = 1.0"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(corpus, arguments, words):
    if {"cuda", "kernels"} & set(arguments) and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    given = [str(corpus / "data") if a == "DATA" else a for a in arguments]
    done = train("--config", corpus / "run.toml", *given)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_bad_data_is_refused_without_torch(tmp_path):
    """It takes seconds on a GPU's host."""
    program = (
        "import sys, train\n"
        "code = train.main(sys.argv[1:])\n"
        "print(code, {'torch', 'triton', 'matplotlib'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", program, "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
    assert "holds no *train*.bin" in done.stderr or "tokenizer" in done.stderr
    assert done.stdout == "2 set()\n"


def corrupt(shard: Path, harm: str) -> None:
    words = np.fromfile(shard, dtype="<u2")
    if harm == "truncated":
        words = words[:-5]
    elif harm == "magic number":
        words[0] += 1
    elif harm == "version":
        words[2] = 9
    else:
        words[600] = 301
    words.tofile(shard)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("harm", ["truncated", "magic number", "version", "has id 301"])
def test_a_corrupt_shard_is_one_line_before_torch_is_loaded(corpus, tmp_path, split, harm):
    data = shutil.copytree(corpus / "data", tmp_path / "data")
    corrupt(data / f"fineweb_{split}_000000.bin", harm)
    done = train("--config", corpus / "run.toml", "--data", data, "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    assert harm in done.stderr
    assert f"fineweb_{split}_000000.bin" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_empty_data_folder_is_one_line(corpus, tmp_path):
    shutil.copy(corpus / "data" / "tokenizer.model", tmp_path)
    done = train("--config", corpus / "run.toml", "--data", tmp_path)
    assert done.returncode == 2
    assert "holds no *train*.bin" in done.stderr
