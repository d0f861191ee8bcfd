"""What the learning-rate agent proposes and votes after rises, plateaus and recoveries."""

import pytest

from swarm.agents.base import Proposal
from swarm.agents.learning_rate import LearningRate, Trend
from tests.swarm.small import snapshot


class TestLearningRate:
    def run(self, windows, state=None):
        """(state, proposals of the last) after windows."""
        agent = LearningRate()
        state, proposals = state or agent.start(), agent.propose(agent.start(), snapshot())[1]
        for window in windows:
            state, proposals = agent.propose(state, window)
        return state, proposals

    def test_a_rising_loss_halves_the_rate(self):
        _, proposals = self.run([snapshot(loss=2.1, lowest=2.0, velocity=0.001)])
        assert proposals == (Proposal("lr", "lr_factor", 0.5, 0.7, "rising loss"),)

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
        state, proposals = self.run(flat)
        assert proposals == (Proposal("lr", "lr_factor", 0.7, 0.9, "plateau"),)
        assert self.run(flat[:-1])[1] == ()
        assert self.run(flat[:12], state)[1] == proposals
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
        _, proposals = self.run([snapshot(lr_factor=0.6)] * 3, Trend(2.0, 0, 0, 0.7))
        assert proposals[0].value == 0.7

    @pytest.mark.parametrize(
        ("lever", "value", "changes", "vote"),
        [
            ("rollback", 1.0, {"velocity": 0.01}, 0.5),
            ("rollback", 1.0, {"velocity": -0.01, "loss": 2.05}, -0.7),
            ("rollback", 1.0, {"velocity": -0.01}, 0.5),  # the lowest: it comes from nowhere
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
