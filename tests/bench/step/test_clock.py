"""The command's table is one that a run with these settings takes."""

import json
from pathlib import Path

import pytest
import torch

from bench.harness.rig import Rig
from bench.step import clock as clock_command
from bench.step import variants
from bench.step.clock import in_turn, main
from errors import InputError
from runtime.ranks import World
from settings.load import load_settings
from settings.variants import reachable
from training.reference_clock import WORK, ReferenceClock

TINY = "--preset tiny --num-layers 3 --near-layers 0 --parallel-from 2 --xsa-last-n 1 "
TINY += "--ve-layers 1 --model-dim 32 --rope-dims 4 --mtp-num-heads 8 --mtp-targets 0 "
TINY += "--train-batch-tokens 512 --micro-batch-tokens 512 --calibration-tokens 512 --device cpu"


@pytest.mark.parametrize("text", [False, True], ids=["random tokens", "text"])
def test_a_clock_of_preset_tiny_is_measured_and_read(
    text: bool, builtin: Path, tmp_path: Path, capsys, monkeypatch
):
    torch.set_num_threads(1)
    stages = ["--stages", "[{until = 0.5, mtp_num_heads = 0}, {until = 1.0}]"]
    given = [*TINY.split(), *(["--data", str(builtin)] if text else [])]
    options = [*given, *stages]
    out = tmp_path / "clock.json"
    monkeypatch.setattr(clock_command, "stages_of_rungs", lambda settings: stages)
    few = {"turns": 5, "steps": 4}  # a median that a pause of the machine does not move
    assert main("x", *given, ladder=True, out=out, commit="y", **few) == 0
    settings = load_settings(options, {})
    clock = ReferenceClock(out, settings, 1)
    assert clock.steps.keys() == set(reachable(settings))
    with_heads, without = clock.steps.values()
    assert 0 < without < with_heads < 10
    assert clock.work.keys() == set(WORK)
    assert all(seconds > 0 for name, seconds in clock.work.items() if name != "keep")
    record = json.loads(out.read_text())
    assert record["commit"] == "y"
    told = [*TINY.split(), *(["--data", "DIR"] if text else []), *stages]
    assert record["settings"] == told
    assert capsys.readouterr().out.count(" ms ") == 6


def test_what_a_turn_takes_besides_its_steps_does_not_count():
    times = in_turn({"a": lambda steps: 0.5 + 0.1 * steps}, turns=2, steps=4)
    assert times["a"] == pytest.approx([100.0, 100.0])


def test_steps_with_copies_are_launched_without_waiting_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rig, order = Rig(tmp_path, World.single(torch.device("cpu")), TINY.split()), []
    trainer = rig.trainer
    step, copy, wait = trainer.step, trainer.snapshots.take, variants.finished
    monkeypatch.setattr(trainer, "step", lambda *given: order.append("step") or step(*given))
    monkeypatch.setattr(trainer.snapshots, "take", lambda: order.append("copy") or copy())
    monkeypatch.setattr(variants, "finished", lambda it: order.append("wait") or wait(it))
    clock_command.keep_ms(trainer, turns=1)
    rig.close()
    with_copies = ["wait", *["copy", "step"] * clock_command.KEEPS, "wait"]
    assert order == [*with_copies, "wait", *["step"] * clock_command.KEEPS, "wait"]


@pytest.mark.parametrize(("turns", "steps"), [(0, 1), (1, 0)])
def test_no_turn_and_no_step_are_refused_before_the_warm_up(turns: int, steps: int) -> None:
    with pytest.raises(InputError, match="give 1 or more"):
        main("x", *TINY.split(), turns=turns, steps=steps)
