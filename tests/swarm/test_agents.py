"""What each agent wishes of what it sees, and that a new one is a class and a line."""

import re

import pytest

import swarm.agents
from files import PROJECT
from settings import load_settings
from swarm.agents import AGENTS, KgWeight, LearningRate, MtpWeight, QatTiming, Trend
from swarm.mesh import Proposal
from swarm.steering import Steering
from tests.swarm.made import snapshot

README = PROJECT / "README.md"


def wish(agent, **changes):
    """(value, reason) of the only wish; None if there is none."""
    _, wishes = agent.propose(agent.start(), snapshot(**changes))
    return (wishes[0].value, wishes[0].reason) if wishes else None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"progress": 0.39, "lr_scale": 0.1}, None),  # a short run's cool-down begins early
        ({"progress": 0.41, "lr_scale": 0.16}, None),
        ({"progress": 0.41, "lr_scale": 0.14}, "low learning rate"),
        ({"progress": 0.41, "int6_error": 0.3}, "int6 error"),
        ({"progress": 0.41, "int6_error": 0.2}, None),
        ({"progress": 0.39, "int6_error": 0.3}, None),
        ({"progress": 0.65}, "deadline"),
        ({"progress": 0.65, "int6_error": 0.16}, "deadline"),
        ({"progress": 0.65, "int6_error": 0.14}, None),  # GPTQ repairs it
        ({"progress": 0.95, "lr_scale": 0.1, "int6_error": 0.14}, "low learning rate"),
    ],
)
def test_qat_starts_when_the_rate_is_low_the_error_large_or_the_deadline_there(changes, reason):
    assert wish(QatTiming(), **changes) == (reason and (1.0, reason))


def test_qat_starts_once():
    assert wish(QatTiming(), progress=0.9, lr_scale=0.1, qat=1.0) is None


@pytest.mark.parametrize(
    ("progress", "now", "weight"),
    [
        (0.0, 0.5, None),
        (0.149, 0.5, None),
        (0.15, 0.5, 0.4),
        (0.40, 0.4, 0.3),
        (0.41, 0.3, None),
        (0.70, 0.3, 0.1),
        (0.99, 0.1, None),
    ],
)
def test_the_graph_weighs_less_and_less(progress, now, weight):
    found = wish(KgWeight(), progress=progress, kg_weight=now)
    assert found == (weight and (pytest.approx(weight), "taper"))


@pytest.mark.parametrize(
    ("progress", "now", "weight"), [(0.74, 0.1, None), (0.75, 0.1, 0.05), (0.9, 0.05, None)]
)
def test_mtp_weighs_half_in_the_end(progress, now, weight):
    assert wish(MtpWeight(0.1), progress=progress, mtp_weight=now) == (
        weight and (weight, "end of the run")
    )


class TestLearningRate:
    def run(self, windows, state=None):
        """(state, wishes of the last) after windows."""
        agent = LearningRate()
        state, wishes = state or agent.start(), agent.propose(agent.start(), snapshot())[1]
        for window in windows:
            state, wishes = agent.propose(state, window)
        return state, wishes

    def test_a_rising_loss_halves_the_rate(self):
        _, wishes = self.run([snapshot(loss=2.1, lowest=2.0, velocity=0.001)])
        assert wishes == (Proposal("lr", "lr_factor", 0.5, 0.7, "rising loss"),)

    @pytest.mark.parametrize(
        "changes",
        [
            {"loss": 2.03},  # under 2 %
            {"loss": 2.1, "noise": 0.02},  # under six standard errors
            {"loss": 2.5, "velocity": -0.01},  # on its way back
            {"loss": 2.5, "nonfinite": 80},  # nothing new was seen
        ],
    )
    def test_what_is_no_rise_leaves_it(self, changes):
        assert self.run([snapshot(**({"velocity": 0.001} | changes))])[1] == ()

    def test_a_plateau_lowers_it_once_in_so_many_windows_and_not_below_half(self):
        flat = [snapshot()] * 13
        state, wishes = self.run(flat)
        assert wishes == (Proposal("lr", "lr_factor", 0.7, 0.9, "plateau"),)
        assert self.run(flat[:-1])[1] == ()
        assert self.run(flat[:12], state)[1] == wishes
        low = [snapshot(lr_factor=0.7)] * 12
        assert self.run(low, Trend(2.0, 0, 0, 0.7))[1] == ()

    def test_a_cool_down_is_no_plateau(self):
        assert self.run([snapshot(lr_scale=0.9)] * 13)[1] == ()

    def test_a_loss_that_falls_by_less_than_its_noise_a_window_is_no_plateau(self):
        losses = [2.0 - 0.002 * window for window in range(40)]
        windows = [snapshot(loss=loss, lowest=loss, noise=0.003) for loss in losses]
        for place in range(1, 40):
            assert self.run(windows[:place])[1] == ()

    def test_after_a_switch_of_qat_a_higher_loss_is_the_new_low(self):
        before, after = snapshot(), snapshot(loss=2.2, lowest=2.2)
        assert self.run([before] * 10 + [after] * 12)[1] == ()

    def test_a_halving_is_taken_back_once_the_loss_is_well_again(self):
        well = snapshot(lr_factor=0.5, loss=2.005)
        assert self.run([well] * 2)[1] == ()
        assert self.run([well] * 3)[1] == (Proposal("lr", "lr_factor", 0.75, 0.65, "well again"),)
        assert self.run([well] * 9)[1][0].confidence == 0.9

    def test_it_is_taken_back_to_what_a_plateau_left(self):
        _, wishes = self.run([snapshot(lr_factor=0.6)] * 3, Trend(2.0, 0, 0, 0.7))
        assert wishes[0].value == 0.7

    @pytest.mark.parametrize(
        ("lever", "value", "changes", "vote"),
        [
            ("rollback", 1.0, {"velocity": 0.01}, 0.5),
            ("rollback", 1.0, {"velocity": -0.01}, -0.7),
            ("rollback", 1.0, {"velocity": -0.001, "loss": 3.0}, 0.5),
            ("clip", 0.2, {"velocity": 0.01}, 0.5),
            ("clip", 0.2, {"velocity": 0.0}, 0.0),
            ("clip", 0.4, {"velocity": -0.01, "clip": 0.2}, 0.5),
            ("clip", 0.4, {"velocity": 0.0, "clip": 0.2}, 0.0),
            ("qat", 1.0, {}, 0.0),
        ],
    )
    def test_votes(self, lever, value, changes, vote):
        proposal = Proposal("other", lever, value, 0.9, "")
        assert LearningRate().vote(Trend(), snapshot(**changes), proposal) == vote


def test_settings_say_which_agents_a_run_has():
    def names(*arguments):
        steering = Steering.of(load_settings(list(arguments), {}))
        return steering and [agent.name for agent in steering.mesh.agents]

    assert names() == ["qat", "health", "mtp", "lr"]
    assert names("--kg-scores", "wordnet") == [kind.name for kind in AGENTS]
    assert (
        names("--agents-off", "health,lr", "--late-qat-threshold", "0", "--mtp-num-heads", "0")
        is None
    )


def test_a_new_agent_is_one_class_and_one_line(monkeypatch):
    """README's example, as it stands there."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "(Agent)" in block]
    assert len(example.splitlines()) <= 12
    names = vars(swarm.agents).copy()
    exec(example, names)
    monkeypatch.setattr("swarm.steering.AGENTS", names["AGENTS"])
    steering = Steering.of(load_settings([], {}))
    assert steering is not None
    for loss in (1.0, 4.0, 1.0, 4.0):
        steering.add(loss, 0.3)
    assert steering.cycle(80, 0.1, 1.0).changed == {"lr_factor": 0.5}
