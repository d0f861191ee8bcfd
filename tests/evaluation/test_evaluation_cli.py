"""``python -m evaluation`` on a real artifact and its data folder."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from artifact.export import export
from data.shards import write_shard
from data.tokenizer import Tokenizer
from evaluation import __main__ as cli
from evaluation.audit.checks import CHECKS
from evaluation.subject import Subject
from kernels.attention.reference import causal
from model.parameters import exported, roles
from tests import warm
from tests.evaluation.network import LENGTH, fresh, small_settings
from tests.small import clean_environment, trained_tokenizer

VOCAB = 300
TEXT = "the dog and the fox; the fox and the bird: each of them watches the other. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of a text that repeats itself, and an artifact of a fresh network."""
    folder = tmp_path_factory.mktemp("evaluation")
    tokenizer = trained_tokenizer([TEXT * 20], VOCAB, folder)
    for split in ("train", "val"):
        write_shard(folder / f"{split}.bin", tokenizer.encode_documents([TEXT * 3, TEXT * 6]))
    settings = small_settings(vocab_size=VOCAB)
    architecture = settings.architecture().model_dump() | {"mtp_num_heads": 0}
    model = fresh(settings)
    export(folder / "artifact.bin", architecture, exported(model), roles(model.config))
    return folder


@pytest.fixture
def run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a command on the artifact; its exit code, what it printed and its complaints."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: object) -> tuple[int, str, str]:
        name, *options = map(str, arguments)
        given = ["--data", str(folder), "--seq-len", str(LENGTH), "--device", "cpu", *options]
        code = cli.main([name, str(folder / "artifact.bin"), *given])
        printed, complaint = capsys.readouterr()
        return code, printed, complaint

    return command


TTT = ("--stride", 4, "--ttt-chunk-tokens", 64, "--ttt-batch-seqs", 2)


def bpb(printed: str) -> float:
    found = re.search(r"bpb (\d+\.\d+)", printed)
    assert found, printed
    return float(found[1])


def test_test_time_training_beats_windows_of_the_same_stride(run):
    sliding = bpb(run("score", "--stride", 4)[1])
    assert bpb(run("score")[1]) != sliding
    assert bpb(run("ttt", *TTT, "--ttt-lr", 0.0)[1]) == pytest.approx(sliding, abs=2e-6)
    assert bpb(run("ttt", *TTT, "--ttt-lr", 0.05)[1]) < sliding - 0.1
    lora = ("--ttt-method", "lora", "--ttt-lora-chunk", 8, "--ttt-lora-lr", 0.02)
    lora = (*lora, "--ttt-lora-chunk-most", 8)
    assert bpb(run("ttt", *TTT, *lora)[1]) < sliding - 0.1


def test_a_command_that_is_nearly_one_is_named(capsys):
    assert cli.main(["adit"]) == 2
    assert capsys.readouterr().err == "error: no command and no file 'adit'; did you mean audit?\n"
    assert cli.main(["artifact.bin"]) == 2
    assert "artifact.bin: no such file" in capsys.readouterr().err


def test_what_cannot_be_frozen_is_refused_before_the_first_score(run):
    code, printed, complaint = run("all", *TTT, "--ttt-enabled", "--ttt-freeze-blocks", 9)
    assert (code, printed) == (2, "")
    assert complaint == "error: ttt_freeze_blocks 9, but the network has 3 layers\n"


def test_the_settings_of_the_run_that_the_artifact_lies_in_are_taken_up(folder: Path, run):
    expected = bpb(run("ttt", *TTT, "--ttt-lr", 0.05)[1])
    beside = folder / "settings.toml"
    beside.write_text("eval_stride = 4\nttt_chunk_tokens = 64\nttt_batch_seqs = 2\nttt_lr = 0.05\n")
    try:
        assert bpb(run("ttt")[1]) == expected
        assert bpb(run("ttt", "--ttt-lr", 0.0)[1]) > expected + 0.1
    finally:
        beside.unlink()


def test_a_run_s_folder_chooses_neither_tokenizer_nor_limit(folder: Path, run, tmp_path: Path):
    """F5: a tokenizer in the judged folder forged a score of 0.32 from 4.93."""
    honest = run("score")[1]
    model = (folder / "tokenizer.model").read_bytes()
    place = model.rindex(b"fox")
    (tmp_path / "t.model").write_bytes(model[:place] + b"xxx" + model[place + 3 :])
    beside = folder / "settings.toml"
    beside.write_text(
        f'tokenizer = "{tmp_path}/t.model"\nval_max_tokens = 5\nsize_limit = 5\ndevice = "cuda"\n'
    )
    try:
        said = run("score")[1]
        beside.unlink()
        beside.symlink_to(tmp_path / "t.model")
        code, _, complaint = run("score")
    finally:
        beside.unlink()
    assert bpb(said) == bpb(honest)
    assert "282 of 282 tokens" in said
    assert f"tokenizer {folder}/tokenizer.model (of the data, no manifest to check)" in said
    assert code == 2 and "settings.toml: is a link" in complaint


def test_a_tokenizer_of_equal_size_that_the_run_did_not_have_is_refused(
    folder: Path, run, tmp_path: Path
):
    """It scored in silence."""
    foreign = trained_tokenizer([TEXT.replace("fox", "cat") * 20], VOCAB, tmp_path).path
    code, _, doubt = run("score", "--tokenizer", foreign)
    assert code == 0
    assert doubt.startswith("warning: ") and doubt.count("\n") == 1
    own = Tokenizer(folder / "tokenizer.model").sha256
    summary = folder / "summary.json"
    summary.write_text(json.dumps({"data": {"val.bin": "0" * 64, "tokenizer.model": own}}))
    try:
        assert run("score")[::2] == (0, "")
        commands = [("score",), ("all", "--stride", 4), ("ttt", *TTT)]
        found = [run(*command, "--tokenizer", foreign) for command in commands]
        written = cli.main(["generate", str(folder / "artifact.bin"), "--tokenizer", str(foreign)])
    finally:
        summary.unlink()
    for code, printed, complaint in found:
        assert (code, printed) == (2, "") and complaint.count("\n") == 1
        assert complaint.startswith(f"error: {foreign}: not the tokenizer that {folder}/artifact")
    assert written == 2


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the entrant's process as a fork, which need not import PyTorch."""

    def popen(command: list[str], cwd: str, **streams: object) -> warm.Started:
        return warm.start(*command[1:], environment=clean_environment(), folder=Path(cwd))

    monkeypatch.setattr("evaluation.audit.entrant.subprocess.Popen", popen)
    # It trains twice; tests/artifact/submission/test_first_steps.py has it.
    monkeypatch.setattr("evaluation.audit.shuffled.reads_validation", lambda script, network: False)


def test_an_honest_artifact_passes_the_audit(run, forked: None):
    """The table says what is not known without a run, and what no check sees."""
    options = (*TTT, "--cuts", 3, "--places", 60, "--ttt-method", "lora", "--ttt-lora-chunk", 8)
    code, printed, _ = run("audit", *options, "--ttt-enabled", "--audit-seed", 5)
    assert code == 0, printed
    assert printed.count("│ holds ") == 16 and "BROKEN" not in printed
    lines = printed.splitlines()
    begin = lines.index("steps: " + ", ".join(CHECKS))
    assert sum(line.startswith("holds ") for line in lines[begin:]) == 16
    steps = [line.partition(": ")[0] for line in lines if re.fullmatch(r"[^:]+: \d+ s", line)]
    assert steps and steps == [name for name in CHECKS if name in steps]  # of a second or more
    rules = {"C1 strict prefix": 3, "C1 causal": 2, "C2": 2, "C4 one pass": 2, "C3 score": 1}
    for name, count in rules.items():
        assert printed.count(f"│ {name} ") == count, name
    assert "│ C3 whole run " in printed and printed.count("unknown") >= 7
    assert "No check sees: trained on the validation split" in printed
    assert "one place in 20 is missed" in printed and "--audit-seed 5" in printed


def test_a_run_that_is_late_fails_the_audit(folder: Path, run, forked: None):
    summary = folder / "summary.json"
    summary.write_text(json.dumps({"train_seconds": 601.0}))
    try:
        code, printed, _ = run("audit", "--stride", 4, "--cuts", 2, "--places", 20)
    finally:
        summary.unlink()
    assert code == 1
    assert re.search(r"training clock.*BROKEN.*601\.0 of 600 s", printed)
    assert len(re.findall(r"│ C[124] .* holds ", printed)) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "--stride", 17], "eval_stride 17 exceeds eval_seq_len 16"),
        (["ttt", "--stride", 4, "--ttt-chunk-tokens", 50], "no multiple of eval_seq_len 16"),
        (["ttt", "--ttt-lrr", 1], "--ttt-lrr"),
        (["audit", "--cuts", 0], "--cuts 0"),
        (["audit", "--code", "absent.py"], "--code absent.py: no such folder or file"),
        (["score", "--tokenizer", "absent.model"], "absent.model: no such tokenizer"),
        (["score", "--backend", "kernels"], "has no head dim 8"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, arguments: list, words: str):
    code, _, complaint = run(*arguments)
    assert code == 2
    assert words in complaint and complaint.count("\n") == 1


def test_a_split_that_is_too_short_is_one_line(run, forked: None):
    code, _, complaint = run("audit", "--seq-len", 2048, "--stride", 4)
    assert code == 2
    assert "too short to audit windows of 2048" in complaint and complaint.count("\n") == 1


def test_a_missing_artifact_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["ttt", str(folder / "none.bin"), "--data", str(folder)]) == 2
    assert "none.bin: no such file" in capsys.readouterr().err


def test_a_run_s_kernels_are_what_scores(folder: Path):
    """The artifact's network computes by the operations that the settings choose."""
    subject = Subject.open(
        folder / "artifact.bin",
        {
            "data": folder,
            "eval_seq_len": 16,
            "eval_stride": 4,
            "attention_backend": "sdpa",
            "dtype": "bfloat16",
            "device": "cpu",
        },
    )
    assert subject.model.dtype == torch.bfloat16
    chosen = subject.model.ops.attention
    assert isinstance(chosen, partial) and chosen.keywords == {"attend": causal}
    assert subject.settings.num_layers == subject.model.config.num_layers == 3
    tokens = torch.from_numpy(subject.inputs.validation.read(0, 17).astype(np.int32))[None]
    nats = subject.score_fn(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    assert nats.shape == (1, 16)
