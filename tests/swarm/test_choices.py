"""Choice levers: agents pick an option of a setting, and nothing else."""

import json
from collections.abc import Sequence
from typing import ClassVar

import pytest

from settings.load import load_settings
from settings.variants import stage_variants, with_choices
from swarm.agents.base import Agent, Proposal
from swarm.decision_log import NAME, read
from swarm.levers import STAGED, Choice, limits, start_values
from swarm.mesh import Mesh
from swarm.replay import replay
from swarm.steering import Steering
from swarm.telemetry import Snapshot
from tests.swarm.small import CALM, Scripted

OPTIONS = ["--swarm-windows", "512,0,1024", "--swarm-heads", "0"]
SETTINGS = load_settings(OPTIONS, {})
LEVERS = start_values(SETTINGS)


class Widener(Agent):
    """Widens the window in the second half, and the third time proposes what is no option."""

    name: ClassVar[str] = "widener"
    levers: ClassVar[tuple[str, ...]] = ("window", "heads")

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        window = 512 if snapshot.progress < 0.5 else 1024 if snapshot.progress < 0.8 else 77
        return state, (Proposal(self.name, "window", window, 0.9, "progress"),)


def decided(*agents: Agent, **levers: float):
    """The cycle of these agents in a run with these values of levers."""
    mesh = Mesh(agents, limits(SETTINGS))
    return mesh.cycle(CALM._replace(levers=LEVERS | levers))


def test_a_setting_without_options_makes_no_lever():
    settings = load_settings([], {})
    assert not {"window", "loops", "heads"} & start_values(settings).keys()
    assert "loops" not in LEVERS
    assert limits(SETTINGS)["window"] == Choice((512, 0, 1024), 2)


def test_what_is_no_option_or_no_lever_of_the_run_is_refused():
    for lever, value in (("window", 77), ("window", float("nan")), ("loops", 1)):
        cycle = decided(Scripted("a", (lever, value, 0.9)))
        assert (len(cycle.proposals), cycle.verdicts, cycle.levers) == (1, [], LEVERS)


def test_only_proposals_of_the_same_option_support_each_other():
    wide, wider = Scripted("a", ("window", 512, 0.5)), Scripted("b", ("window", 1024, 0.5))
    (verdict,) = decided(wide, wider).verdicts
    assert (verdict.rule, verdict.after) == ("no second", STAGED)
    (verdict,) = decided(wide, wider, Scripted("c", ("window", 1024.0, 0.4))).verdicts
    assert (verdict.rule, verdict.after, verdict.agents) == ("agreed", 1024, ("b", "c"))


def test_three_options_of_which_two_tie_change_nothing():
    agents = [
        Scripted(str(option), ("window", option, confidence))
        for option, confidence in ((512, 0.85), (0, 0.9), (1024, 0.9))
    ]
    (verdict,) = decided(*agents).verdicts
    assert (verdict.rule, verdict.after) == ("tie", STAGED)


def test_a_choice_stays_for_two_cycles():
    mesh = Mesh([Scripted("a", ("window", 512, 0.9))], limits(SETTINGS))
    first = mesh.cycle(CALM._replace(levers=LEVERS))
    assert first.levers["window"] == 512
    mesh.agents = (Scripted("a", ("window", 1024, 0.9)),)
    later = [mesh.cycle(CALM._replace(levers=first.levers)) for _ in range(3)]
    assert [cycle.verdicts[0].rule for cycle in later] == ["too soon", "too soon", "alone"]


def test_a_choice_is_proposed_decided_logged_and_replayed(tmp_path, monkeypatch):
    monkeypatch.setattr("swarm.steering.AGENTS", (Widener,))
    monkeypatch.setattr("swarm.replay.AGENTS", (Widener,))
    steering = Steering.of(SETTINGS)
    assert steering is not None
    assert steering.choices == {}
    steering.log_to(tmp_path / NAME)
    (stage,) = stage_variants(SETTINGS)
    windows = []
    for number in range(1, 10):
        steering.add(2.0, 0.3)
        steering.cycle(80 * number, number / 10, 1.0)
        windows.append(with_choices(stage, steering.choices).window)
    steering.close()
    assert windows == [512] * 4 + [1024] * 5
    assert steering.decided == {}  # no number for kernels
    records = list(read(tmp_path / NAME))
    assert records[0]["bounds"]["window"] == {"options": [512, 0, 1024], "hold": 2}
    assert records[1]["snapshot"]["levers"]["window"] == STAGED
    assert replay(tmp_path / NAME, records) == (9, [])
    records[5]["verdicts"][0]["after"] = 0
    assert replay(tmp_path / NAME, records)[1]

    restored = Steering.of(SETTINGS)
    assert restored is not None
    restored.load(json.loads(json.dumps(steering.state())))
    assert restored.choices == {"window": 1024}


def test_levers_that_do_not_exist_are_refused_at_the_start():
    with pytest.raises(KeyError, match="no lever 'windw'"):
        Steering(Mesh([wrong()], limits(SETTINGS)), LEVERS, 80)


def wrong() -> Agent:
    agent = Scripted("a")
    agent.levers = ("windw",)  # pyright: ignore[reportAttributeAccessIssue]
    return agent
