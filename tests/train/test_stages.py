"""A run of two stages: loops, batch, length, window and documents change at 35 % of the steps."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train as program
from evaluation.score import Scoring
from evaluation.scoreboard import Scoreboard
from evaluation.subject import Subject
from model.plan import plan
from runtime.run_folder import read_log
from tests.small import one_thread  # noqa: F401 - runs are in this process
from tests.train.runs import ANOTHER_ORDER, final_tensors, losses, meet

STAGES = """
loop_layers = [1]
num_loops = 1
parallel_from = 2
gate_window = 4
smear_window = 4
skip_gates = true
window = 24
near_window = 12
near_layers = [0]
document_mask = true
ttt_chunk_tokens = 512
ttt_batch_seqs = 4
ttt_epochs = 1
[[stages]]
until = 0.35
lr_factor = 0.7
loops = 0
window = 8
near_window = 4
documents = false
train_batch_tokens = 192
train_seq_len = 16
mtp_num_heads = 1
[[stages]]
until = 1.0
"""
FIRST = {
    "batch_tokens": 192,
    "seq_len": 16,
    "loops": 0,
    "window": 8,
    "near_window": 4,
    "documents": False,
}
LAST = {
    "batch_tokens": 384,
    "seq_len": 32,
    "loops": 1,
    "window": 24,
    "near_window": 12,
    "documents": True,
}
LORA = {"device": "cpu", "ttt_method": "lora", "ttt_lora_chunk": "16"}
SWITCH, STOP = 7, 12


@pytest.fixture(scope="module")
def options(corpus: Path) -> list[str]:
    config = corpus / "staged.toml"
    config.write_text((corpus / "run.toml").read_text() + STAGES)
    return ["--config", str(config), "--data", str(corpus / "data"), "--eval-stride", "0"]


@pytest.fixture(scope="module")
def staged(corpus: Path, options: list[str]) -> Path:
    """The run folder of 20 steps without interruption, scored by test-time training as well."""
    run = corpus / "staged"
    torch.set_num_threads(1)
    assert program.main([*options, "--run-dir", str(run), "--ttt-enabled"]) == 0
    return run


def test_the_stage_changes_at_its_share_of_the_steps(staged):
    changes = [event for event in read_log(staged / "log.jsonl") if event["kind"] == "variant"]
    assert [(event["step"], event["heads"]) for event in changes] == [(0, 1), (SWITCH, 2)]
    for event, expected in zip(changes, (FIRST, LAST), strict=True):
        assert expected.items() <= event.items()


def test_totals_count_the_tokens_of_each_stage(staged):
    summary = json.loads((staged / "summary.json").read_text())
    assert summary["tokens"] == SWITCH * 192 + (20 - SWITCH) * 384


def test_a_run_that_stops_in_the_second_stage_goes_on_bit_for_bit(
    corpus, options, staged, monkeypatch
):
    run = corpus / "staged-stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Scoreboard, "validate", interrupt)
        arguments = [*options, "--run-dir", str(run), "--val-loss-every", str(STOP)]
        assert program.main(arguments) == 128 + signal.SIGTERM
    assert program.main(["--resume", str(run)]) == 0
    assert losses(run) == losses(staged)
    ours, theirs = final_tensors(run), final_tensors(staged)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def interrupt(*_: object) -> float:
    os.kill(os.getpid(), signal.SIGTERM)
    return 1.0


def test_two_ranks_take_the_stages_of_one(corpus, options, staged):
    run = corpus / "staged-ranks"
    done = meet(*options, "--run-dir", run, ranks=2)
    assert done.returncode == 0, done.stderr
    assert losses(run) == pytest.approx(losses(staged), rel=ANOTHER_ORDER)
    scores = [json.loads((r / "summary.json").read_text())["scores"] for r in (run, staged)]
    for row in scores[0]:
        assert scores[0][row]["bpb"] == pytest.approx(scores[1][row]["bpb"], rel=2e-4)


@pytest.fixture(scope="module")
def subject(corpus: Path, staged: Path) -> Subject:
    return Subject.open(staged / "artifact.bin", {**LORA, "data": str(corpus / "data")})


def nats(subject: Subject) -> float:
    scoring = Scoring(subject.world)
    return subject.score(subject.split, subject.settings.eval_seq_len, scoring).nats


def test_the_artifact_is_scored_as_the_run_scored_it(staged, subject):
    config = subject.model.config
    assert (config.num_loops, config.loop_layers) == (1, [1])
    assert (config.window, config.document_mask) == (24, True)
    scores = json.loads((staged / "summary.json").read_text())["scores"]
    assert nats(subject) == scores["roundtrip, plain"]["nats"]
    assert scores["roundtrip, TTT sgd"]["nats"] < scores["roundtrip, plain"]["nats"]


@pytest.mark.parametrize(
    "change", [{"loops": 0}, {"window": 0}, {"near_window": 0}, {"documents": False}]
)
def test_loops_windows_and_documents_each_change_the_score(subject, monkeypatch, change):
    before = nats(subject)
    monkeypatch.setattr(subject.model, "plan", plan(subject.model.config, **change))
    assert nats(subject) != before


def test_adapters_of_each_visit_score_and_adapt(subject):
    few = replace(subject.split, max_tokens=600)
    plain = subject.score(few, subject.settings.eval_seq_len, Scoring(subject.world))
    adapted = subject.adapt(few, Scoring(subject.world))
    assert adapted.tokens == plain.tokens == 600
    assert adapted.nats != plain.nats
    assert adapted.nats == pytest.approx(plain.nats, rel=0.02)
