"""Whole runs, as a user starts them: real processes, real files, a small network."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from artifact.export import load
from files import PROJECT
from runtime import checkpoint
from runtime.run_folder import read_log
from tests.small import clean_environment

# Ranks add in another order. A last digit is 1e-7; where it takes a weight over the middle of two
# codes of QAT's grid, which it does in some steps, the loss of this small network moves by 3e-5.
ANOTHER_ORDER = 1e-4
NETWORK = """
vocab_size = 300
num_layers = 3
model_dim = 32
num_heads = 4
num_kv_heads = 2
rope_dims = 4
xsa_last_n = 1
ve_layers = [2]
ve_dim = 8
bigram_vocab_size = 64
bigram_dim = 8
train_seq_len = 32
train_batch_tokens = 384
micro_batch_tokens = 384
eval_seq_len = 32
eval_stride = 8
val_batch_size = 4096
wallclock = 0.0
iterations = 20
warmup_steps = 1
warmdown_iters = 10
muon_momentum_warmup_steps = 10
ema_decay = 0.9
train_log_every = 1
checkpoint_minutes = 0.0
calibration_tokens = 1536
device = "cpu"
"""


def command(*arguments: object, ranks: int = 1) -> list[str]:
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*launcher, str(PROJECT / "train.py"), *map(str, arguments)]


def train(*arguments: object, ranks: int = 1, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments, ranks=ranks),
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder made by the project's own command, and ``run.toml`` beside it."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 6))) for _ in range(80)]
    for split, documents in (("train", 150), ("val", 15)):
        texts = [" ".join(draw.choices(words, k=60)) for _ in range(documents)]
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    arguments = ["--train", folder / "train.jsonl", "--val", folder / "val.jsonl"]
    arguments += ["--train-tokenizer", 300, "--out", folder / "data"]
    subprocess.run(
        [sys.executable, "-m", "data", "prepare", *map(str, arguments)],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (folder / "run.toml").write_text(NETWORK)
    return folder


@pytest.fixture(scope="session")
def straight(corpus: Path) -> Path:
    """The run folder of 20 steps without interruption."""
    run = corpus / "straight"
    done = train("--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run)
    assert done.returncode == 0, done.stderr
    return run


def losses(run: Path) -> list[float]:
    steps = [event for event in read_log(run / "log.jsonl") if event["kind"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 21))
    return [event["loss"] for event in steps]


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    assert newest.name == "step_000020"
    return checkpoint.load(newest, "cpu")[0]


def test_a_run_leaves_everything_in_its_folder(straight):
    names = {path.name for path in straight.iterdir()}
    assert names == {
        "settings.toml",
        "environment.json",
        "log.jsonl",
        "decisions.jsonl",
        "checkpoints",
        "artifact.bin",
        "summary.json",
        "loss.png",
    }
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["steps"] == 20
    assert summary["tokens"] == 20 * 384
    assert summary["total_bytes"] == summary["code_bytes"] + summary["artifact_bytes"]
    assert summary["artifact_bytes"] == (straight / "artifact.bin").stat().st_size
    assert set(summary["scores"]) == {
        "raw, plain",
        "averaged, plain",
        "roundtrip, plain",
        "roundtrip, sliding",
    }
    assert losses(straight)[-1] < losses(straight)[0] - 0.3


def test_a_run_says_where_its_startup_went(straight):
    (startup,) = (e for e in read_log(straight / "log.jsonl") if e["kind"] == "startup")
    phases = ("settings and data", "torch and device", "model", "warm-up")
    assert startup["total"] == pytest.approx(sum(startup[phase] for phase in phases))
    assert all(0 < startup[phase] < 60 for phase in phases)
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["startup_seconds"] == startup["total"]
    assert summary["backend"] == "reference"
    assert summary["attention"] == "sdpa"


def test_code_bytes_count_every_module_of_the_run(straight):
    summary = json.loads((straight / "summary.json").read_text())
    for module in (
        "train.py",
        "settings/optimizer.py",
        "model/gpt.py",
        "kernels/optimizer/reference.py",
        "training/device_levers.py",
    ):
        assert module in summary["code_files"]
    assert sum(summary["code_files"].values()) == summary["code_bytes"]


def test_the_artifact_holds_no_mtp_heads_and_all_else(straight):
    architecture, weights = load(straight / "artifact.bin")
    assert architecture["mtp_num_heads"] == 0
    live = {name.removeprefix("model.") for name in final_tensors(straight) if "model." in name}
    assert set(weights) == live - {"mtp_heads"}


def test_the_artifact_alone_scores_as_the_run_said(corpus, straight):
    arguments = [straight / "artifact.bin", "--data", corpus / "data"]
    arguments += ["--seq-len", 32, "--stride", 8, "--batch-tokens", 4096]
    done = subprocess.run(
        [sys.executable, "-m", "evaluation", *map(str, arguments)],
        cwd=PROJECT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads((straight / "summary.json").read_text())
    printed = re.search(r"bpb (\d+\.\d+)", done.stdout)
    assert printed
    assert float(printed[1]) == pytest.approx(
        summary["scores"]["roundtrip, sliding"]["bpb"], abs=2e-6
    )


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_gives_the_same_losses(corpus, straight, ranks):
    run = corpus / f"ranks{ranks}"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    done = train(*arguments, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert losses(run) == pytest.approx(losses(straight), rel=ANOTHER_ORDER)
    scores = [json.loads((r / "summary.json").read_text())["scores"] for r in (run, straight)]
    for row in scores[0]:
        assert scores[0][row]["bpb"] == pytest.approx(scores[1][row]["bpb"], rel=2e-4)
        assert scores[0][row]["tokens"] == scores[1][row]["tokens"]


def test_ranks_that_do_not_divide_the_batch_are_one_line_and_exit_2(corpus):
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data"]
    done = train(*arguments, RANK="0", WORLD_SIZE="5")
    assert done.returncode == 2
    assert "5 ranks cannot share" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_kill_9_and_resume_continue_bit_for_bit(corpus, straight):
    run = corpus / "killed"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    # A checkpoint after every step, so that the kill falls between or inside two of them.
    arguments += ["--checkpoint-minutes", "1e-9"]
    process = subprocess.Popen(
        command(*arguments), env=clean_environment(), stdout=subprocess.DEVNULL
    )
    newest, deadline = None, time.monotonic() + 120
    while time.monotonic() < deadline:
        newest = checkpoint.latest(run / "checkpoints")
        if newest is not None and newest.name >= "step_000010":
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert newest is not None
    assert newest.name < "step_000020"
    resumed = train("--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    assert losses(run) == losses(straight)
    ours, theirs = final_tensors(run), final_tensors(straight)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("number", "ranks"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)]
)
def test_a_signal_saves_a_checkpoint_to_resume_from(corpus, straight, number, ranks):
    run = corpus / f"signalled{number.value}-{ranks}"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    process = subprocess.Popen(
        command(*arguments, ranks=ranks),
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        log = run / "log.jsonl"
        if log.exists() and any(event["kind"] == "step" for event in read_log(log)):
            break
        time.sleep(0.01)
    process.send_signal(number)
    shown, _ = process.communicate(timeout=60)
    assert f"--resume {run}" in shown
    if ranks == 1:
        assert process.returncode == 128 + number
    # What two ranks began, one takes up.
    assert train("--resume", run).returncode == 0
    assert losses(run) == pytest.approx(losses(straight), rel=0 if ranks == 1 else ANOTHER_ORDER)


def test_the_budget_is_kept_to_one_step(corpus):
    run = corpus / "budget"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    arguments += ["--wallclock", "3", "--iterations", "100000", "--warmdown-iters", "60"]
    done = train(*arguments)
    assert done.returncode == 0, done.stderr
    summary = json.loads((run / "summary.json").read_text())
    step = summary["step_ms"] / 1000
    calibration = summary["calibration"]
    assert 0 < calibration["seconds"] < calibration["reserved"] + step
    assert 3 - 3 * step - calibration["reserved"] <= summary["train_seconds"] <= 3 + step
    steps = [event for event in read_log(run / "log.jsonl") if event["kind"] == "step"]
    assert steps[-1]["progress"] > 0.9
    assert steps[-1]["lr_scale"] < 0.5
    assert steps[-1]["qat"]


def test_validation_in_between_is_logged_and_off_the_clock(corpus, straight):
    run = corpus / "validated"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    done = train(*arguments, "--val-loss-every", "10")
    assert done.returncode == 0, done.stderr
    scored = [e for e in read_log(run / "log.jsonl") if e["kind"] == "validation"]
    assert [e["step"] for e in scored if e["weights"] == "raw"] == [10, 20, 20]
    assert losses(run) == losses(straight)


def test_the_artifact_is_no_finer_for_what_it_is_scored_on(corpus, straight, tmp_path):
    data = shutil.copytree(corpus / "data", tmp_path / "data")
    shutil.copy(data / "fineweb_train_000000.bin", data / "fineweb_val_000000.bin")
    arguments = ["--config", corpus / "run.toml", "--data", data, "--run-dir", tmp_path / "run"]
    done = train(*arguments)
    assert done.returncode == 0, done.stderr
    scores = [
        json.loads((run / "summary.json").read_text())["scores"]["roundtrip, plain"]
        for run in (tmp_path / "run", straight)
    ]
    assert scores[0]["tokens"] != scores[1]["tokens"]
    artifacts = [(run / "artifact.bin").read_bytes() for run in (tmp_path / "run", straight)]
    assert artifacts[0] == artifacts[1]


def test_calibration_makes_the_artifact_better_and_can_be_left_out(corpus, straight):
    runs = [corpus / "calibrated", corpus / "nearest"]
    for run, tokens in zip(runs, (1536, 0), strict=True):
        arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
        arguments += ["--attention-bits", 3, "--mlp-bits", 3, "--calibration-tokens", tokens]
        done = train(*arguments)
        assert done.returncode == 0, done.stderr
        assert losses(run) == losses(straight)
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    assert [summary["calibration"]["tokens"] for summary in summaries] == [1536, 0]
    weights = [load(run / "artifact.bin")[1] for run in runs]
    differ = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert differ == {"qo_bank", "kv_bank", "up_bank", "down_bank"}
    calibrated, nearest = (summary["scores"]["roundtrip, plain"]["bpb"] for summary in summaries)
    assert calibrated < nearest


def test_an_artifact_is_coarsened_until_it_fits_and_no_further(corpus, straight):
    free = json.loads((straight / "summary.json").read_text())
    assert free["total_bytes"] < free["size_limit"]
    assert free["artifact"]["factor"] <= 1
    limit = free["total_bytes"] - free["artifact_bytes"] // 4
    run = corpus / "tight"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    done = train(*arguments, "--size-limit", limit)
    assert done.returncode == 0, done.stderr
    tight = json.loads((run / "summary.json").read_text())
    assert tight["artifact"]["factor"] > free["artifact"]["factor"]
    room = limit - tight["code_bytes"]
    assert 0.98 * room < tight["artifact_bytes"] <= room


def test_over_the_size_limit_is_a_failure_after_saving(corpus):
    run = corpus / "fat"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    done = train(*arguments, "--size-limit", "1000", "--iterations", "2")
    assert done.returncode == 1
    assert "1,000" in done.stderr
    assert (run / "summary.json").exists()
    assert (run / "artifact.bin").exists()


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


@pytest.mark.parametrize(
    ("harm", "arguments", "words"),
    [
        ("none", ["--model-dim", "64"], "does not fit these settings"),
        ("truncated", [], "damaged"),
        ("removed", [], "no checkpoint to go on from"),
    ],
)
def test_a_checkpoint_that_cannot_be_taken_up_is_one_line_before_warm_up(
    straight, tmp_path, harm, arguments, words
):
    run = shutil.copytree(straight, tmp_path / "run")
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    if harm == "truncated":
        whole = (newest / "tensors.safetensors").read_bytes()
        (newest / "tensors.safetensors").write_bytes(whole[:-9])
    elif harm == "removed":
        shutil.rmtree(run / "checkpoints")
    done = train("--resume", run, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "warming up" not in done.stdout


def test_an_existing_run_folder_is_not_overwritten(corpus, straight):
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", straight]
    before = (straight / "log.jsonl").read_bytes()
    done = train(*arguments)
    assert done.returncode == 2
    assert (straight / "log.jsonl").read_bytes() == before
