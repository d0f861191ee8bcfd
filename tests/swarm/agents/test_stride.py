"""The stride agent: rates and weights that do not fit each other."""

import pytest

from settings.load import load_settings
from swarm.agents.base import SURE, Proposal
from swarm.agents.guard import Guard
from swarm.agents.recovery import Recovery
from swarm.agents.stride import Paces, Stride
from swarm.levers import RESCALE, ROLLBACK, limits
from swarm.mesh import Mesh
from swarm.telemetry import Snapshot
from tests.swarm.small import CALM

BOUNDS = limits(load_settings(["--swarm-agents", "frontier"], {}))
HEALTHY = [0.059, 0.035, 0.062, 0.631]  # of the first steps of preset tiny


def seen(*ratios: float, kept: int | None = 0, fit: float = 1.0, loss: float = 11.2) -> Snapshot:
    """A snapshot of a bad loss, in which the banks move so far."""
    levers = {**CALM.levers, "lr_fit": fit}
    signals = {**CALM.signals, "update_ratios": list(ratios) or None}
    signals |= {"loss": loss, "lowest": loss}
    return CALM._replace(kept=kept, levers=levers, signals=signals)


def walked(factor: float, cycles: int) -> tuple[Mesh, list[dict[str, float]]]:
    """The changes of a mesh in a run whose rates are so many times those of ``HEALTHY``."""
    decides, fit, changes = Mesh((Guard(0.4), Stride(), Recovery()), BOUNDS), 1.0, []
    for _ in range(cycles):
        ratios = [min(1.0, each * factor * fit) for each in HEALTHY]
        cycle = decides.cycle(seen(*ratios, fit=fit))
        fit = cycle.levers["lr_fit"]
        changes.append({lever: cycle.changed[lever] for lever in cycle.changed if lever != "keep"})
    return decides, changes


@pytest.mark.parametrize("ratios", [(), HEALTHY, [0.03, 0.02, 0.035, 0.03], [0.0] * 4])
def test_known_runs_hear_nothing(ratios):
    assert Stride().propose(Paces(), seen(*ratios)) == (Paces(), ())


def test_three_times_the_rates_go_to_a_third_and_stay_there():
    _, changes = walked(3.0, 30)
    assert changes[:2] == [{"lr_fit": 0.5}, {"lr_fit": pytest.approx(0.04 / 0.105)}]
    assert not any(changes[2:])


def test_ten_times_the_rates_begin_again_once_they_are_low():
    _, changes = walked(10.0, 12)
    assert changes[0] == {"lr_fit": 0.5}
    assert changes[1] == {"lr_fit": pytest.approx(0.04 / 0.35), ROLLBACK: 1.0}
    assert not any(changes[2:])


def test_an_older_copy_is_not_the_start():
    state, found = Stride().propose(Paces(0.1), seen(*HEALTHY, kept=80, fit=0.5))
    assert (state, [each.lever for each in found]) == (Paces(0.1), ["lr_fit"])


def test_a_bank_that_hardly_moves_is_too_large_and_the_run_begins_again_once():
    large = seen(0.059, 0.035, 0.062 / 30, 0.631)
    state, found = Stride().propose(Paces(), large)
    assert found == [
        Proposal("stride", ROLLBACK, 1.0, SURE, "from the start"),
        Proposal("stride", RESCALE, 1.0, SURE, "large weights"),
    ]
    assert Stride().propose(state, large) == (state, ())
    for later in (large._replace(kept=None), large._replace(kept=80)):
        assert Stride().propose(Paces(), later) == (Paces(), ())


@pytest.mark.parametrize("ratios", [[each * 10 for each in HEALTHY], [0.05, 0.04, 0.001, 0.6]])
def test_far_steps_are_no_harm_by_themselves(ratios):
    """A sweep of the matrices' rate was lowered, embeddings and all, and lost by it."""
    assert Stride().propose(Paces(), seen(*ratios, loss=7.9)) == (Paces(), ())


def test_what_is_above_knowing_nothing_depends_on_the_vocabulary():
    settings = load_settings(["--swarm-agents", "frontier", "--vocab-size", "8192"], {})
    agent = Stride.of(settings)
    ratios = [each * 10 for each in HEALTHY]
    assert agent.propose(Paces(), seen(*ratios, loss=9.9)) == (Paces(), ())
    assert agent.propose(Paces(), seen(*ratios, loss=10.1))[1]


def test_windows_without_a_finite_step_say_nothing_new():
    """They lowered the rates to their floor, because each had the ratios of the last one."""
    state, _ = Stride().propose(Paces(), seen(0.2, 0.2, 0.3, 0.9))
    dead = seen(0.2, 0.2, 0.3, 0.9, fit=0.5)._replace(nonfinite=80)
    assert Stride().propose(state, dead) == (state, ())


def test_a_change_that_is_too_small_asks_for_no_new_start():
    found = Stride().propose(Paces(1 / 30), seen(*HEALTHY, fit=1 / 16 + 1 / 70))[1]
    assert not found


def test_the_lowest_rate_is_the_lever_s():
    state, found = Stride().propose(Paces(), seen(*[0.9] * 4, kept=None, fit=1 / 16))
    assert state.ceiling < 1 / 16
    assert not found
