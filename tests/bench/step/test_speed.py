"""The record of speed has every number, or why it is missing, whatever happens on the way."""

import json
import math
import signal
import time
from pathlib import Path

import pytest
import torch

from bench.harness import rig
from bench.harness.contest import Ceilings
from bench.harness.operation import Cost, Entry
from bench.harness.speeds import ABOUT_FIELDS, FIELDS, Record, figures, report
from bench.step import clock, speed
from bench.step.speed import PARTS, Part, Session, measure
from data.inputs import open_inputs
from errors import InputError
from training.trainer import Trainer

SMALL = "--num-layers 7 --model-dim 16 --num-heads 2 --num-kv-heads 1 --mlp-mult 1 --rope-dims 4 "
SMALL += "--xsa-last-n 1 --ve-layers 1 --ve-dim 8 --gate-window 4 --smear-window 4 --window 16 "
SMALL += "--parallel-from 6 --train-batch-tokens 64 --train-seq-len 32 --eval-seq-len 32 "
SMALL += "--eval-stride 32 --vocab-size 64 --near-layers 0,1 --near-window 8 "
SMALL += "--device cpu --backend reference"
ABOUT = {"device": "CPU", "commit": "abc"}
OF_STEPS = ("forward_backward", "step", "step_looped", "step_compiled", "step_seed")


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(rig, "SHARD_TOKENS", 4096)
    ends = time.monotonic() + 600
    made = Session(tmp_path, torch.device("cpu"), ends, SMALL.split(), turns=1, steps=1)
    yield made
    made.close()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "speed.json", ABOUT)


def written(record: Record) -> dict:
    return json.loads(record.path.read_text())


def test_steps_are_measured_and_a_peer_that_fails_gives_way_to_the_next(
    session: Session, record: Record, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(clock, "SETTLING", 1)
    compiled = [part for part in PARTS if set(part.fields) & set(OF_STEPS)]
    wrong = Part(("start_cold", "start_warm"), lambda *_: [][1])
    measure(session, record, [wrong, *compiled])
    found = written(record)
    assert set(found) == {*ABOUT, *FIELDS, *ABOUT_FIELDS, "missing"}
    assert all(found[name] for name in OF_STEPS), found["missing"]
    assert found["attention"] == "cuDNN"  # FlexAttention has no backward pass on a CPU
    reason = "IndexError: list index out of range"
    assert found["missing"] == dict.fromkeys(("start_cold", "start_warm"), reason)
    visits = [
        event["loops"]
        for line in (session.frontier.folder.log_file).read_text().splitlines()  # pyright: ignore[reportOptionalMemberAccess]
        if (event := json.loads(line))["kind"] == "variant"
    ]
    assert set(visits) == {0, 2}
    assert visits[-1] == 0  # step_beside has no loops, although step_looped came before
    assert found["step"] != found["step_beside"]
    assert report(record) in (0, 1)
    printed = capsys.readouterr().out
    assert "| step with 17 visits over step |" in printed
    assert f"missing: start_warm: {reason}" in printed


def test_the_phases_of_a_start_are_kept_and_printed(
    session: Session, record: Record, monkeypatch: pytest.MonkeyPatch, capsys
):
    phases = {"model": 1.234, "warm-up": 8.0, "total": 9.234}
    monkeypatch.setattr(speed, "startup", lambda *_: dict(phases))
    monkeypatch.setattr(speed, "random_data", lambda *_: session.folder)
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    measure(session, record, PARTS[:1])
    assert written(record)["start_warm"] == 9.23
    kept = {"model": 1.23, "warm-up": 8.0}
    resumed = Record(record.path, ABOUT, resume=True)
    assert resumed.numbers["start_phases"] == {"start_cold": kept, "start_warm": kept}
    report(record)
    assert "start_warm: model 1.23 s, warm-up 8.0 s" in capsys.readouterr().out


def test_what_may_take_all_the_time_is_measured_last():
    assert PARTS[-1].measure is speed.compiled


def test_every_field_is_of_one_part():
    assert sorted(name for part in PARTS for name in part.fields) == sorted(FIELDS)


def test_what_does_not_fit_is_null_with_its_reason(session: Session, record: Record):
    session.ends = time.monotonic() + 30
    measure(session, record)
    found = written(record)
    assert all(found[name] is None for name in FIELDS)
    assert found["missing"]["gpus4"] == "it needs 4 GPUs"
    assert found["missing"]["step"] == "30 s were left: go on with --resume"


def test_a_part_that_takes_too_long_is_ended(session: Session, record: Record):
    def slow(session: Session, record: Record) -> None:
        record.keep({"start_cold": 1.0})
        time.sleep(20)

    session.ends = time.monotonic() + 0.1
    measure(session, record, [Part(("start_cold", "start_warm"), slow)])
    found = written(record)
    assert found["start_cold"] == 1.0
    assert list(found["missing"]) == ["start_warm"]
    assert "ended after 0 s" in found["missing"]["start_warm"]


@pytest.mark.parametrize("late", [False, True])
def test_a_peer_that_fails_gives_way_to_the_next_and_one_that_is_ended_to_none(
    session: Session, record: Record, monkeypatch: pytest.MonkeyPatch, late: bool
):
    tried = []

    def beside(session: Session, trainer: type[Trainer]) -> dict[str, float]:
        tried.append(trainer)
        if len(tried) < len(speed.PEERS):
            time.sleep(20 * late)
            raise ValueError("no such mask")
        return {"step_beside": 1.0, "step_compiled": 2.0}

    monkeypatch.setattr(speed, "beside", beside)
    session.ends = time.monotonic() + 1
    measure(session, record, [Part(("step_compiled",), speed.compiled)])
    assert tried == list(speed.PEERS.values())[: 1 if late else None]
    assert written(record)["step_compiled"] == (None if late else 2.0)


def test_a_limit_inside_another_leaves_it_as_it_was():
    with pytest.raises(TimeoutError, match="after 0 s"), speed.limited(0.1):
        with speed.limited(20):
            pass
        time.sleep(20)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_an_interruption_leaves_what_was_measured(session: Session, record: Record):
    def interrupted(session: Session, record: Record) -> None:
        record.keep({"start_cold": 1.0})
        raise SystemExit(128 + signal.SIGTERM)

    with pytest.raises(SystemExit):
        measure(session, record, [Part(("start_cold", "start_warm"), interrupted)])
    assert written(record)["start_cold"] == 1.0
    assert written(record)["missing"] == {"start_warm": "interrupted"}


def test_what_is_there_is_not_measured_again(session: Session, record: Record):
    record.keep({"start_cold": 1.0, "start_warm": 0.5})
    record.lack(["kernels"], "one was wrong")
    again = Record(record.path, ABOUT, resume=True)
    measured = []
    parts = [
        part._replace(measure=lambda _, to, part=part: measured.append(part.fields), least=0)
        for part in PARTS
    ]
    measure(session, again, parts)
    assert measured == [part.fields for part in PARTS[1:] if not part.gpus]
    with pytest.raises(InputError, match="another device or commit"):
        Record(record.path, ABOUT | {"commit": "d"}, resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        Record(record.path.parent / "none.json", ABOUT, resume=True)


def entry(name: str, factor: float = 1.0) -> Entry:
    x = {"x": torch.linspace(-1, 1, 50)}
    return Entry(
        name,
        lambda inputs: [factor * inputs["x"].sin()],
        lambda inputs: [inputs["x"].sin()],
        x,
        lambda: x,
        Cost(1, 10**6),
        Cost(1, 10**6),
        peers={},
    )


def test_a_kernel_that_is_wrong_has_no_ratio_and_the_others_have(session: Session, record: Record):
    entries = [(entry("a"), ("forward", "backward")), (entry("b", 1.1), ("both",))]

    def ratios(session: Session, record: Record) -> None:
        speed.ratios(entries, Ceilings(1e9, 1e9), session, record)

    measure(session, record, [Part(("kernels",), ratios)])
    found = written(record)
    assert list(found["kernels"]) == ["a, forward", "a, backward"]
    assert 0 < found["kernels"]["a, forward"] < 10  # of a floor of a millisecond
    assert "b, both: AssertionError: b: output 0 is off" in found["missing"]["kernels"]
    assert Record(record.path, ABOUT, resume=True).lacks("kernels")


def test_bars_are_of_the_issue():
    numbers = dict.fromkeys((*FIELDS, *ABOUT_FIELDS)) | {
        "step": 50.0,
        "step_looped": 71.5,
        "step_compiled": 69.0,
        "step_beside": 52.0,
        "kernels": {"a": 1.5, "b": 2.1},
    }
    missed = [each.what for each in figures(numbers) if not each.met]
    assert missed == [
        "step with 17 visits over step",
        "our step beside it, over step",
        "step, compiled, over ours",
        "worst time over floor: b",
    ]
    assert figures(dict.fromkeys((*FIELDS, *ABOUT_FIELDS))) == []


def test_random_data_is_a_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rig, "SHARD_TOKENS", 2**17)
    inputs = open_inputs(rig.random_data(tmp_path, 8192), None, None, None)
    assert (inputs.vocab_size, inputs.bos_id) == (8192, 1)
    documents = int((inputs.train.read(0, 2**17) == 1).sum())
    assert math.isclose(2**17 / documents, rig.DOCUMENT, rel_tol=0.25)


def test_ttt_seconds_are_what_the_evaluation_prints(monkeypatch: pytest.MonkeyPatch):
    line = "bpb 1.2  nats 0.8  1,000 tokens, 3,000 bytes, 17.3 s\n"
    done = speed.subprocess.CompletedProcess([], 0, stdout=f"tokenizer: x\n{line}")
    monkeypatch.setattr(speed.subprocess, "run", lambda *_, **__: done)
    assert speed.ttt_seconds(4, []) == 17.3


def test_trainers_of_peers_are_trainers():
    assert all(issubclass(trainer, Trainer) for trainer in speed.PEERS.values())
