"""A run by a reference clock takes the steps that its table says, however fast the machine is."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from errors import InputError
from runtime.progress import Progress
from runtime.run_folder import RunFolder, read_log
from settings import Settings
from settings.stages import Stage
from settings.variants import reachable
from swarm.steering import Steering
from tests.training.small import small_settings, trainers
from training.loop import Loop
from training.pace import FIRST_STEP
from training.reference_clock import ReferenceClock, network_of, worked_with
from training.resuming import load_checkpoint
from training.trainer import Trainer

CHANGES = {
    "wallclock": 3.0,
    "iterations": 1000,
    "warmdown_iters": 10,
    "agents_off": ["health"],
    "stages": [Stage(until=0.5, window=4), Stage(until=1.0)],
}
MILLISECONDS = {4: 100.0, 0: 300.0}  # by window


def table(path: Path, settings: Settings, **changes: object) -> Path:
    steps = [
        {"variant": asdict(variant), "milliseconds": MILLISECONDS[variant.window]}
        for variant in reachable(settings)
    ]
    work = {"keep": 10.0, "calibration": 200.0, "choosing": 40.0, "probe": 10.0}
    found = {"device": "x", "ranks": 1, "network": network_of(settings), "steps": steps}
    found |= {"work": work, "worked_with": worked_with(settings)}
    path.write_text(json.dumps(found | changes))
    return path


@pytest.fixture
def make(token_folder: Path):
    with trainers() as make_trainer:
        yield lambda **changes: make_trainer(small_settings(**CHANGES | changes), token_folder)


def looped(trainer: Trainer, file: Path, folder: RunFolder | None = None, start=FIRST_STEP) -> Loop:
    settings, nowhere = trainer.settings, Progress(None, None, enabled=False)
    clock = ReferenceClock(file, settings, 1)
    budget = clock.budget(settings.wallclock, settings.iterations, start.elapsed, 0.24)
    steering = Steering.of(settings)
    return Loop(trainer, settings, folder, nowhere, lambda *_: 1.0, steering, start, budget)


def test_steps_are_those_of_the_table_and_two_runs_are_equal(make, tmp_path):
    """2.76 s: 14 steps of 100 ms are the first half, and four of 300 ms fit the rest."""
    file = table(tmp_path / "clock.json", small_settings(**CHANGES))
    folder = RunFolder.create(tmp_path / "run", "x", {})
    loops = [looped(make(), file, folder), looped(make(), file)]
    for loop in loops:
        loop.run()
        assert loop.step == 14 + 4
        assert loop.budget.elapsed() == pytest.approx(14 * 0.1 + 4 * 0.3)
    changes = [e for e in read_log(folder.log_file) if e["kind"] == "variant"]
    assert [(e["step"], e["window"]) for e in changes] == [(0, 4), (14, 0)]
    one, other = (dict(loop.trainer.model.named_parameters()) for loop in loops)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_resumed_run_counts_on_bit_for_bit(make, tmp_path, ahead):
    file = table(tmp_path / "clock.json", small_settings(**CHANGES))
    whole = looped(make(), file)
    whole.ahead = ahead
    whole.run()
    folder = RunFolder.create(tmp_path / "run", "x", {})
    first = looped(make(), file, folder)
    first.ahead = ahead
    first.steps(16)
    first._save(first.budget.elapsed())
    trainer = make(resume=folder.path)
    start = load_checkpoint(folder.path, trainer, None, folder)
    assert start.elapsed == pytest.approx(14 * 0.1 + 2 * 0.3)
    second = looped(trainer, file, folder, start)
    second.ahead = ahead
    second.run()
    assert (second.step, second.budget.elapsed()) == (whole.step, whole.budget.elapsed())
    for name, parameter in whole.trainer.model.named_parameters():
        assert torch.equal(parameter, trainer.model.get_parameter(name)), name


def test_copies_of_the_weights_are_charged_and_pauses_are_not(make, tmp_path):
    file = table(tmp_path / "clock.json", small_settings(**CHANGES))
    budget = looped(make(), file).budget
    assert budget.takes("keep", 7.0) == 0.01
    budget.start()
    with budget.paused():
        budget.spend("keep")
    budget.stop()
    assert budget.elapsed() == 0.01


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ranks": 8}, "is of 8 ranks, and this run has 1"),
        ({"steps": []}, "has no step of {'batch_tokens'"),
        ({"work": {"keep": 1.0, "calibration": 1.0}}, "has no milliseconds of choosing"),
        ({"network": {}}, "bigram_dim is None there and"),
        ({"worked_with": {}}, "calibration_tokens is None there and"),
        ({"worked_with": None}, "worked_with: Input should be a valid dict"),
        ({"work": {"keep": -1.0}}, "work.keep: Input should be greater"),
        ({"steps": [{"variant": {}, "milliseconds": 0.0}]}, "steps.0.milliseconds: Input"),
        ({"device": 3}, "device: Input should be a valid string"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(tmp_path, changes, says):
    settings = small_settings(**CHANGES)
    file = table(tmp_path / "clock.json", settings, **changes)
    with pytest.raises(InputError, match="python -m bench clock") as caught:
        ReferenceClock(file, settings, 1)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"readout": True}, {"calibration_tokens": 64}])
def test_a_table_of_other_work_is_refused(tmp_path, change):
    """A readout makes more comparisons than a table that was measured without one says."""
    file = table(tmp_path / "clock.json", small_settings(**CHANGES))
    (name,) = change
    with pytest.raises(InputError, match=f"{name} is .* there and {change[name]} here; measure"):
        ReferenceClock(file, small_settings(**CHANGES, **change), 1)


def test_what_is_no_table_is_one_line(tmp_path):
    with pytest.raises(InputError, match="measure one"):
        ReferenceClock(tmp_path / "none.json", small_settings(**CHANGES), 1)
