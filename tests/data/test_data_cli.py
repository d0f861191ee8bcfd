"""The command line: quick help without torch, one line and code 2 for what is wrong."""

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.__main__ import main
from data.making import whole_folder
from data.tokenizer import Tokenizer
from files import PROJECT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_help_and_inspection_import_no_torch(tmp_path: Path):
    listing = (
        "import sys, runpy\n"
        "try: runpy.run_module('data', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: print('code', end.code, 'torch' in sys.modules)\n"
    )
    for arguments, code in ((["--help"], 0), (["inspect", str(tmp_path)], 2)):
        command = [sys.executable, "-c", listing, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
        assert f"code {code} False" in done.stdout


def test_text_to_shards_to_inspection_in_worker_processes(tmp_path: Path, documents: list[str]):
    train, val, out = tmp_path / "train.txt", tmp_path / "val.txt", tmp_path / "out[b]"
    train.write_text("\n".join(documents))
    val.write_text(documents[0])
    flags = ("--train", train, "--val", val, "--out", out, "--workers", "2")
    made = run("prepare", *flags, "--train-tokenizer", "400")
    assert (made.returncode, made.stderr) == (0, "")
    assert Tokenizer(out / "tokenizer.model").vocab_size == 400
    seen = run("inspect", out)
    assert seen.returncode == 0
    assert f"{len(val.read_bytes()):,}" in seen.stdout
    assert str(out) in seen.stdout


def test_what_is_wrong_is_one_line_and_code_2(tmp_path: Path, model_path: Path):
    absent = tmp_path / "absent.jsonl"
    flags = ("--train", absent, "--val", absent, "--tokenizer", model_path, "--out", tmp_path / "o")
    for arguments in (("prepare", *flags), ("inspect", tmp_path)):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tokenizer", "a", "--train-tokenizer", "9"], "give one of --tokenizer MODEL and --tra"),
        ([], "give one of --tokenizer MODEL and --train-tokenizer TOKENS"),
        (["--train-tokeniser", "9"], "did you mean --train-tokenizer"),
        (["--tokenizer", "a", "--normalise", "nmt_nfkc"], "a normalises as it was trained to"),
    ],
)
def test_one_tokenizer_is_asked_for_in_plain_words(options: list[str], words: str, capsys):
    assert main(["prepare", "--train", "a", "--val", "b", "--out", "c", *options]) == 2
    said = capsys.readouterr().err
    assert words.lower() in said.lower() and said.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--train-tokenizer", "1.5"], "--train-tokenizer 1.5: give a whole number"),
        (["--train-tokenizer", "300.0"], "--train-tokenizer 300.0: give a whole number"),
        (["--train-tokenizer", "300", "--workers", "1.2"], "--workers 1.2: give a whole number"),
    ],
)
def test_a_number_is_not_rounded(given: list[str], words: str, capsys):
    """1.5 tokens were 2."""
    assert main(["prepare", "--train", "a", "--val", "b", "--out", "c", *given]) == 2
    assert capsys.readouterr().err == f"error: {words}\n"


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, number: int
):
    """SIGTERM left .out.PID.part."""
    (tmp_path / "t.txt").write_text("one two")
    (tmp_path / "v.txt").write_text("three four")
    begun = []

    def killed(folder: Path, *rest: object) -> None:
        begun.append(folder.is_dir())
        os.kill(os.getpid(), number)

    monkeypatch.setattr("data.prepare._write_split", killed)
    files = ["--train", tmp_path / "t.txt", "--val", tmp_path / "v.txt", "--out", tmp_path / "out"]
    command = ["prepare", *map(str, files), "--tokenizer", str(model_path), "--workers", "1"]
    assert main(command) == 128 + number
    assert begun == [True]
    assert capsys.readouterr().err == "interrupted\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.txt", "v.txt"]
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", lambda path, **given: given or refuse(path))
    with pytest.raises(OSError) as refused, whole_folder(tmp_path / "out"):
        pass
    assert refused.value.filename == str(tmp_path / "out")


def test_text_comes_through_a_pipe_by_another_field_without_its_bad_records(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    lines = b'{"body": "bada kolu"}\n{"text": "x"}\n{"body": "mi sa"}\n'
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "v.jsonl").write_text('{"body": "mi sa"}\n{"body": "kolu"}\n')
    flags = ["--field", "body", "--skip-bad", "--drop-equal", "--workers", "1"]
    files = ["--train", "-", "--val", str(tmp_path / "val"), "--out", str(tmp_path / "out")]
    assert main(["prepare", *files, "--tokenizer", str(model_path), *flags]) == 0
    said = capsys.readouterr().out
    assert "train: 1 bad records skipped; the first:" in said
    assert 'stdin.jsonl:2: no field "text"' not in said
    assert "stdin.jsonl:2: no field \"body\"; there are 'text'" in said
    assert "train: 1 documents left out" in said
    assert main(["inspect", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "train stdin.jsonl" in said
    assert "note: train without 1 bad records" in said
