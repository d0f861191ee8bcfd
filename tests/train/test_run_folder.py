"""What a run leaves in its folder, and its artifact."""

import hashlib
import json
import re

import pytest

from artifact.export import load
from artifact.submission.packed import pack
from files import PROJECT
from runtime.records import read_settings
from runtime.run_folder import read_log
from settings import Settings
from tests import warm
from tests.small import clean_environment
from tests.train.runs import final_tensors, losses, train


def test_a_run_leaves_everything_in_its_folder(straight):
    names = {path.name for path in straight.iterdir()}
    assert names == {
        "settings.toml",
        "environment.json",
        "log.jsonl",
        "train.log",
        "decisions.jsonl",
        "checkpoints",
        "artifact.bin",
        "summary.json",
        "loss.png",
        "nats",
    }
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["steps"] == 20
    assert summary["tokens"] == 20 * 384
    _, weights = load(straight / "artifact.bin")
    assert summary["exported_parameters"] == sum(each.numel() for each in weights.values())
    assert summary["parameters"] == summary["exported_parameters"] + 2 * 300 * 32  # MTP heads
    assert summary["total_bytes"] == summary["code_bytes"] + summary["artifact_bytes"]
    assert summary["artifact_bytes"] == (straight / "artifact.bin").stat().st_size
    assert set(summary["scores"]) == {
        "raw, plain",
        "averaged, plain",
        "roundtrip, plain",
        "roundtrip, sliding",
    }
    assert losses(straight)[-1] < losses(straight)[0] - 0.3


def test_the_text_log_has_first_lines_steps_and_final_lines(straight):
    lines = (straight / "train.log").read_text().splitlines()
    assert lines[0].startswith("network   ")
    steps = [line for line in lines if re.match(r"step:\d+ train_loss:\d", line)]
    assert len(steps) == 20
    assert any(" val_bpb:" in line and " weights:roundtrip " in line for line in lines)
    assert lines[-1] == f"run folder: {straight}"
    assert not any("%" in line for line in lines)


def test_a_run_says_where_its_startup_went(straight):
    (startup,) = (e for e in read_log(straight / "log.jsonl") if e["kind"] == "startup")
    before = ("settings", "hashes of code", "data", "hashes of data", "knowledge and swarm")
    before += ("torch", "device", "run folder", "network")
    warm_up = ("checkpoint", "copy of state", "timed steps", "restored state")
    warm_up += ("rehearsal of calibration", "loop")
    assert tuple(startup) == ("kind", *before, *warm_up, "total")
    assert startup["total"] == pytest.approx(sum(startup[phase] for phase in (*before, *warm_up)))
    assert all(0 <= startup[phase] < 60 for phase in (*before, *warm_up))
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["startup_seconds"] == startup["total"]
    assert summary["startup"] == {phase: startup[phase] for phase in (*before, *warm_up)}
    assert summary["warm_up_seconds"] == pytest.approx(sum(startup[phase] for phase in warm_up))
    said = f"startup   {startup['total']:.1f} s: "
    lines = (straight / "train.log").read_text().splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith(said))
    assert lines[at + 1].startswith("step:1 "), "nothing lies between startup and the first step"
    assert summary["backend"] == "reference"
    assert summary["attention"] == "sdpa"


def test_code_bytes_are_those_of_the_packed_submission(straight):
    summary = json.loads((straight / "summary.json").read_text())
    settings = Settings.model_validate(read_settings(straight))
    script = pack(PROJECT, settings)
    assert summary["code_bytes"] == len(script)
    assert summary["code_files"] == {"train_gpt.py": len(script)}
    assert summary["code_sha256"] == hashlib.sha256(script).hexdigest()


def test_a_run_records_its_code_its_data_and_that_it_touched_nothing_else(corpus, straight):
    summary = json.loads((straight / "summary.json").read_text())
    assert {"train.py", "evaluation/windows.py", "kernels/optimizer/muon.py"} <= set(
        summary["code_modules"]
    )
    for name, digest in summary["code_modules"].items():
        assert digest == hashlib.sha256((PROJECT / name).read_bytes()).hexdigest()
    assert set(summary["data"]) == {"tokenizer.model", "fineweb_val_000000.bin"}
    for name, digest in summary["data"].items():
        assert digest == hashlib.sha256((corpus / "data" / name).read_bytes()).hexdigest()
    kinds = ("files", "network", "programs", "text", "code")
    assert summary["observed"] == {kind: [] for kind in kinds}


def test_the_artifact_holds_no_mtp_heads_and_all_else(straight):
    architecture, weights = load(straight / "artifact.bin")
    assert architecture["mtp_num_heads"] == 0
    live = {name.removeprefix("model.") for name in final_tensors(straight) if "model." in name}
    assert set(weights) == live - {"mtp_heads"}


def test_the_artifact_alone_scores_as_the_run_said(corpus, straight):
    arguments = [straight / "artifact.bin", "--data", corpus / "data"]
    arguments += ["--seq-len", 32, "--stride", 8, "--batch-tokens", 4096]
    done = warm.run("-m", "evaluation", *arguments, environment=clean_environment())
    assert done.returncode == 0, done.stderr
    summary = json.loads((straight / "summary.json").read_text())
    printed = re.search(r"bpb (\d+\.\d+)", done.stdout)
    assert printed
    assert float(printed[1]) == pytest.approx(
        summary["scores"]["roundtrip, sliding"]["bpb"], abs=2e-6
    )


def test_validation_and_texts_in_between_are_logged_and_change_nothing(corpus, straight):
    run = corpus / "validated"
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]
    texts = ["--sample-every", "8", "--sample-prompt", "abc ", "--sample-tokens", "5"]
    done = train(*arguments, "--val-loss-every", "10", *texts)
    assert done.returncode == 0, done.stderr
    events = list(read_log(run / "log.jsonl"))
    samples = {e["step"]: e["text"] for e in events if e["kind"] == "sample"}
    assert set(samples) == {8, 16}
    assert all(text.startswith("abc ") for text in samples.values())
    assert samples[8] != samples[16]
    assert done.stdout.count("\nsample    abc ") == 2
    assert (run / "artifact.bin").read_bytes() == (straight / "artifact.bin").read_bytes()
    scored = [e for e in events if e["kind"] == "validation"]
    assert [e["step"] for e in scored if e["weights"] == "raw"] == [10, 20, 20]
    assert losses(run) == losses(straight)


def test_an_existing_run_folder_is_not_overwritten(corpus, straight):
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", straight]
    before = (straight / "log.jsonl").read_bytes()
    done = train(*arguments)
    assert done.returncode == 2
    assert (straight / "log.jsonl").read_bytes() == before
