"""The table of variants has a row for each number, and says which bar was missed."""

from pathlib import Path

import torch

from bench.harness.figures import missed
from bench.harness.rig import Rig
from bench.harness.timeline import Timeline
from bench.step.variants import STAGES, figures, take
from runtime.ranks import World
from settings.load import load_settings
from settings.variants import Variant, reachable
from tests.bench.harness.test_rig import SMALL
from training.captured_steps import Cost

TRACE = Timeline((40.0, 101.0), 9.0, 10.0, 0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0)
FIRST, SECOND = Variant(64, 16), Variant(64, 16, window=4)


def test_the_variants_of_the_sprint_are_possible():
    variants = reachable(load_settings(["--preset", "sprint", *STAGES], {}))
    assert len(variants) == 8
    assert variants[0].loops == 2


def test_a_slow_capture_of_a_further_variant_and_a_long_gap_are_missed_bars():
    costs = {FIRST: Cost(9.0, 2**30), SECOND: Cost(2.1, 2**20)}
    found = figures(costs, {FIRST: 0.05, SECOND: 0.04}, TRACE)
    assert len(found) == 9
    slow, gap = missed(found)
    assert slow.startswith("| 64 tokens of windows of 16, window 4: capture | 2.1 s")
    assert "| 101 us |" in gap


def test_steps_of_variants_in_turn_are_timed(tmp_path: Path):
    stages = ["--stages", "[{until = 0.5, window = 4}, {until = 1.0}]"]
    rig = Rig(tmp_path, World.single(torch.device("cpu")), [*SMALL.split(), *stages])
    before = rig.trainer.loader.position
    assert take(rig.trainer, rig.trainer.variants * 2) > 0
    assert rig.trainer.loader.position == before + 4 * 64
    rig.close()
