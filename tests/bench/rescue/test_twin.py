"""The rescue bench in small, on a CPU: runs that are lost without a roll-back or a clip."""

import math

import pytest

from bench.rescue.troubles import TROUBLES
from tests.bench.rescue.planted import Planted

STEPS = 60


def test_broken_weights_are_rolled_back(make):
    """Without a swarm no loss is finite again; with it the run learns on."""
    trouble = TROUBLES["broken weights"].plant
    left = Planted(make(iterations=STEPS // 2), trouble)
    steered = Planted(make(iterations=STEPS, swarm=True, swarm_every=2), trouble)
    for run in (left, steered):
        assert run.site.struck == pytest.approx(0.4 * len(run.losses), abs=1)
    assert not any(map(math.isfinite, left.losses[left.site.struck :]))
    assert all(map(math.isfinite, steered.losses[-10:]))
    assert sum(steered.losses[-5:]) < sum(steered.losses[:5])


def test_spikes_are_clipped_in_their_own_step(make):
    """Norms a hundred times as large are seen, and applied at no more than the clip."""
    run = Planted(make(grad_clip_norm=0.3), TROUBLES["spikes"].plant)
    assert max(run.seen) > 30 * sorted(run.seen)[len(run.seen) // 2]
    assert max(run.norms) == pytest.approx(0.3, rel=1e-3)


def test_after_a_roll_back_the_rate_is_soon_what_the_schedule_says(make):
    """Set frontier halves it in the alarm, and takes that back."""
    changes = {"swarm": True, "swarm_every": 2, "swarm_agents": "frontier"}
    run = Planted(make(iterations=STEPS, **changes), TROUBLES["broken weights"].plant)
    factor = run.trainer.levers.value("lr_factor")
    assert run.site.struck
    before, after = (run.levers[step][0] for step in (run.site.struck, run.site.struck + 4))
    assert (after < 0.6 * before, factor) == (True, 1.0)
