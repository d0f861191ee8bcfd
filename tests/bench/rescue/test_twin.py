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
