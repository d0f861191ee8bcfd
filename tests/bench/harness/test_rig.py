"""The rig steps as a run does, a stretch at a time."""

from pathlib import Path

import pytest
import torch

from bench.harness.rig import Rig
from bench.step.budget import timed
from bench.swarm import cost as swarm_cost
from bench.swarm.cost import COPIES, cycle_times, keep_cost, keeps_of_a_calm_run
from runtime.ranks import World
from runtime.run_folder import read_log
from swarm.steering import Steering

SMALL = "--num-layers 2 --model-dim 32 --num-heads 2 --num-kv-heads 1 --mlp-mult 2 --rope-dims 8 "
SMALL += "--xsa-last-n 1 --ve-layers 1 --ve-dim 16 --bigram-dim 16 --train-seq-len 16 "
SMALL += "--train-batch-tokens 64 --eval-seq-len 16 --eval-stride 16 --warmup-steps 1 --device cpu"


@pytest.fixture
def rig(tmp_path: Path):
    torch.set_num_threads(1)
    made = Rig(tmp_path, World.single(torch.device("cpu")), SMALL.split())
    yield made
    made.close()


def test_a_stretch_goes_on_where_the_last_one_ended(rig: Rig):
    steering = rig.steering(2)
    seconds = [rig.run(3), rig.run(4, steering)]
    assert rig.step == 7
    assert rig.elapsed == pytest.approx(sum(seconds))
    assert len(steering.microseconds) == 2  # before steps 4 and 6
    assert rig.folder is not None
    logged = [e["step"] for e in read_log(rig.folder.log_file) if e["kind"] == "step"]
    assert logged == [1, 2, 3, 4, 5, 6, 7]


def test_a_calm_run_copies_its_state_now_and_then(rig: Rig):
    assert 1 <= keeps_of_a_calm_run(rig.steering(80), 33) <= 8


@pytest.mark.parametrize("first", [0, 1])
def test_a_copys_cost_is_by_how_much_its_step_is_longer_than_its_neighbour(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, first: int
):
    kept: list[int] = []
    copies: list[int] = []
    take = rig.trainer.snapshots.take
    monkeypatch.setattr(rig.trainer.snapshots, "take", lambda: copies.append(1) or take())

    def made_up(rig: Rig, steps: int, steering: Steering) -> list[float]:
        """A copy adds 40 us to 1,000; the clock drifts, and some steps take half as long again."""
        for step in range(first, first + 8):
            rig.run(1, steering)
            if steering.kept == step:
                kept.append(step)
        longer = [40 * COPIES * steering.due(first + 1 + i) for i in range(steps - 1)]
        return [1000 + i + i * i % 7 + 500 * (i % 23 == 9) + more for i, more in enumerate(longer)]

    rig.run(first)
    monkeypatch.setattr(swarm_cost, "step_times", made_up)
    added, error = keep_cost(rig)
    assert kept == [step for step in range(first, first + 8) if step and step % 2 == 0]
    assert len(copies) >= COPIES * len(kept)  # each loop of made_up begins with one more
    assert added == pytest.approx(40, abs=3)
    assert 0 < error < 1


def test_a_cycles_99th_percentile_is_not_its_slowest(rig: Rig):
    assert len(cycle_times(rig)) > 100


def test_a_run_of_its_own_ends_by_the_clock(rig: Rig):
    step = rig.run(5) / 5
    took = timed(rig, 0.5)
    assert 0.5 - 4 * step <= took <= 0.5 + 4 * step  # a CPU's steps vary
    assert rig.step == 5
