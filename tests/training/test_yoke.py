"""A yoked run trains as the run did whose decisions it obeys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from runtime.progress import Progress
from settings.variants import Variant
from swarm.decision_log import NAME, read
from swarm.steering import Steering
from tests.training.small import small_settings, trainers
from training.loop import Loop
from training.schedule import Moment
from training.trainer import Trainer

CHANGES = {"swarm_every": 3, "iterations": 24, "late_qat_threshold": 0.5}


@pytest.fixture
def make(token_folder: Path) -> Iterator:
    with trainers() as make_trainer:
        yield lambda **changes: make_trainer(small_settings(**(CHANGES | changes)), token_folder)


def losses(trainer: Trainer, log: Path | None = None) -> list[float]:
    """Losses of all steps of a run, which leaves its decisions in ``log``."""
    steering, found = Steering.of(trainer.settings), []
    assert steering is not None
    if log:
        steering.log_to(log)
    take = trainer.step

    def noted(step: int, moment: Moment, variant: Variant | None = None) -> Tensor:
        numbers = take(step, moment, variant)
        found.append(numbers[0].item())
        return numbers

    trainer.step = noted
    nowhere = Progress(None, None, enabled=False)
    Loop(trainer, trainer.settings, None, nowhere, lambda *_: 1.0, steering).run()
    steering.close()
    return found


def test_the_same_run_obeying_its_own_log_is_the_same_bit_for_bit(make, tmp_path):
    log = tmp_path / NAME
    free = losses(make(), log)
    changed = {v["lever"] for r in read(log) if r["kind"] == "cycle" for v in r["verdicts"]}
    assert {"qat", "mtp_weight"} <= changed
    assert losses(make(swarm_yoke=log)) == free
    assert losses(make(swarm_yoke=log, agents_off=["qat"])) == free
