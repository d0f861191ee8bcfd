"""Settings choose a run's agents; a new agent is one class and one line."""

import re
from functools import cache
from typing import Any

import pytest

from files import PROJECT
from settings.load import load_settings
from swarm.agents import AGENTS
from swarm.agents.base import Agent
from swarm.mesh import Cycle
from swarm.simulate import SyntheticRun, simulate
from swarm.steering import Steering
from tests.swarm.small import FRONTIER, steering

README = PROJECT / "README.md"


def test_settings_say_which_agents_a_run_has():
    def names(*arguments):
        swarm = Steering.of(load_settings(list(arguments), {}))
        return swarm and [agent.name for agent in swarm.mesh.agents]

    assert names() == ["qat", "health", "mtp", "lr"]
    seed = ["qat", "kg", "health", "mtp", "lr"]
    assert names("--kg-scores", "wordnet") == seed
    bidding = ["qat", "pace", "sight", "loops", "heads", "guard", "rate"]
    bidding += ["stride", "memory", "recovery"]
    assert names(*FRONTIER) == bidding
    assert names("--swarm-agents", "frontier") == ["qat", "guard", *bidding[6:]]
    assert {*seed, *bidding} == {kind.name for kind in AGENTS}
    assert (
        names("--agents-off", "health,lr", "--late-qat-threshold", "0", "--mtp-num-heads", "0")
        is None
    )


def test_a_new_agent_is_one_class_and_one_line(monkeypatch):
    """README's example, as it stands there, and its class in ``AGENTS``, in a synthetic run."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "(Agent)" in block]
    assert len(example.splitlines()) <= 12
    names: dict[str, Any] = {}
    exec(example, names)
    monkeypatch.setattr("swarm.steering.AGENTS", (*AGENTS, names["Jitters"]))
    swarm = Steering.of(load_settings([], {}))
    assert swarm is not None
    cycles = simulate(swarm, SyntheticRun("spike"))
    assert [c["cycle"] for c in cycles if "jitters" in str(c["proposals"])] == [1, 11]
    assert cycles[0]["levers"]["lr_factor"] == 0.5


def test_each_agent_has_a_file_of_its_own():
    folder = PROJECT / "swarm" / "agents"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "seed", "frontier"}
    assert {kind.__module__ for kind in AGENTS} == {f"swarm.agents.{name}" for name in files}
    assert len(files) == len(AGENTS)


@cache
def troubled(*arguments: str) -> tuple[tuple[Agent, ...], list[list[Cycle]]]:
    """The agents of runs with trouble, and the cycles of each run."""
    runs = []
    for run in ("divergence", "nan-storm", "plateau"):
        swarm, synthetic = steering(*arguments), SyntheticRun(run)
        swarm.note(step_ms=[60.0, 50.0, 60.0, 20.0, 60.0, 50.0])
        cycles: list[Cycle] = []

        def obey(cycle, cycles=cycles, synthetic=synthetic) -> None:
            cycles.append(cycle)
            synthetic.obey(cycle)

        simulate(swarm, synthetic, obey)
        runs.append(cycles)
    return steering(*arguments).mesh.agents, runs


@pytest.mark.parametrize("kind", AGENTS)
def test_an_agent_reads_no_signal_that_it_does_not_declare(kind):
    """Proposals, votes and states are the same if the snapshots hold no other signals."""
    agents, runs = troubled(*(FRONTIER if "frontier" in kind.sets else ()))
    (agent,) = (agent for agent in agents if isinstance(agent, kind) and agent.name == kind.name)
    seen = full = agent.start()
    for cycles in runs:
        for cycle in cycles:
            only = {name: cycle.snapshot.signals[name] for name in kind.reads}
            less = cycle.snapshot._replace(signals=only)
            seen, proposed = agent.propose(seen, less)
            full, expected = agent.propose(full, cycle.snapshot)
            assert (seen, proposed) == (full, expected)
            for proposal in cycle.proposals:
                assert agent.vote(seen, less, proposal) == agent.vote(
                    full, cycle.snapshot, proposal
                )
