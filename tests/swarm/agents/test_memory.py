"""The memory agent: a momentum that does not fit the run's length."""

import pytest

from settings.load import load_settings
from swarm.agents.base import SURE, Proposal
from swarm.agents.memory import Memory
from swarm.levers import limits
from swarm.mesh import Mesh
from swarm.telemetry import Snapshot
from tests.swarm.small import CALM
from training.schedule import remembering

BOUNDS = limits(load_settings(["--swarm-agents", "frontier"], {}))


def seen(momentum: float | None, steps: int, factor: float = 1.0) -> Snapshot:
    """A snapshot at a tenth of a run of so many steps."""
    levers, signals = {**CALM.levers, "memory": factor}, {**CALM.signals, "momentum": momentum}
    return CALM._replace(step=steps // 10, progress=0.1, levers=levers, signals=signals)


@pytest.mark.parametrize(
    ("momentum", "steps"),
    [(0.97, 360), (0.97, 60), (0.85, 2700), (0.92, 360), (0.99, 1100), (0.99, 7000), (None, 700)],
)
def test_known_runs_hear_nothing(momentum, steps):
    assert Memory().propose((), seen(momentum, steps)) == ((), ())


@pytest.mark.parametrize(
    ("momentum", "steps", "fitting"),
    [(0.99, 700, 1 - 1 / 35), (0.99, 300, 0.96), (0.5, 700, 0.95), (0.0, 700, 0.9375)],
)
def test_too_long_and_too_short_a_memory_become_known_ones(momentum, steps, fitting):
    mesh, factor = Mesh((Memory(),), BOUNDS), 1.0
    for _ in range(5):
        factor = mesh.cycle(seen(momentum, steps, factor)).levers["memory"]
    assert remembering(momentum, factor) == pytest.approx(fitting)


def test_a_schedule_that_comes_back_gets_its_own_momentum_again():
    _, (proposal,) = Memory().propose((), seen(0.95, 700, 10.0))
    assert proposal == Proposal("memory", "memory", 1.0, SURE, "memory")


def test_a_length_that_is_not_known_exactly_moves_nothing():
    _, (proposal,) = Memory().propose((), seen(0.99, 700))
    assert Memory().propose((), seen(0.99, 800, proposal.value)) == ((), ())


def test_a_border_is_crossed_once():
    """100 and 50 steps were remembered in turn, as the estimate of the length moved."""
    mesh, factor, found = Mesh((Memory(),), BOUNDS), 1.0, []
    for steps in (1030, 970, 820, 780, 820, 780, 900, 1000):
        factor = mesh.cycle(seen(0.99, steps, factor)).levers["memory"]
        found.append(factor)
    assert found[:3] == [1.0] * 3 and found[3] == pytest.approx(0.39) and len({*found[3:7]}) == 1
    assert found[7] == pytest.approx(0.5)


def test_a_cooldown_is_the_schedule_s():
    cooling = seen(0.73, 700)._replace(lr_scale=0.9)
    assert Memory().propose((), cooling) == ((), ())


def test_a_factor_of_one_is_the_schedule_s_bits():
    assert remembering(0.3, 1.0) == 0.3
    assert remembering(0.97, 1.0) == 0.97
    assert remembering(0.5, 0.25) == 0.0
