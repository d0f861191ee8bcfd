"""The heads agent: what heads still bring, and when their time is worth more."""

import pytest

from errors import InputError
from settings.load import load_settings
from swarm.agents.heads import Heads
from swarm.agents.pace import Pace, Slope
from swarm.levers import STAGED, limits, start_values
from swarm.mesh import Mesh
from tests.swarm.small import CALM, bids

SETTINGS = load_settings(
    ["--swarm-agents", "frontier", "--swarm-heads", "0", "--wallclock", "150"], {}
)


def off(progress, slope, longer) -> bool:
    """Whether heads of so much more time are switched off in a run with this slope."""
    pace = Pace.of(SETTINGS)
    assert pace is not None
    mesh = Mesh([pace, Heads()], limits(SETTINGS))
    mesh.states[0] = Slope(end=slope)
    signals = {"step_ms": [100 * (1 + longer), 100.0], "loss": 2.0, "noise": 0.01}
    signals |= {"bar": None, "bar_step": None}
    seen = CALM._replace(
        step=round(2500 * progress),
        progress=progress,
        lr_scale=0.9,
        levers=start_values(SETTINGS),
        signals=signals,
    )
    return mesh.cycle(seen).changed == {"heads": 0}


def test_what_heads_bring_falls_with_the_square_of_what_is_left():
    (bid,) = bids(Heads(), CALM._replace(progress=0.5, levers={"heads": STAGED}))
    assert (bid.gain, bid.sd) == (pytest.approx(-0.0055 / 4), pytest.approx(0.0055 / 8))
    assert Heads().propose((), CALM._replace(levers={"heads": 0}))[1] == ()


def test_cheap_heads_stay_for_most_of_a_sprint_and_dear_ones_go_at_once():
    assert [off(progress, 0.129, 0.018) for progress in (0.1, 0.5, 0.7, 0.85)] == [
        False,
        False,
        False,
        True,
    ]
    assert off(0.05, 0.5, 0.27)


def test_it_takes_heads_and_the_option_of_none():
    assert Heads.of(SETTINGS) == Heads()
    for arguments in (["--swarm-heads", "0", "--mtp-num-heads", "0"], []):
        assert Heads.of(load_settings(arguments, {})) is None


def test_options_without_none_are_refused():
    settings = load_settings(["--swarm-heads", "1,2"], {})
    with pytest.raises(InputError, match=r"swarm_heads has no 0, .* add it"):
        Heads.of(settings)
    assert Heads.of(settings.model_copy(update={"resume": "runs/x"})) is None
