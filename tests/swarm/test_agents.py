"""Settings choose a run's agents; a new agent is one class and one line."""

import re
from typing import Any

from files import PROJECT
from settings.load import load_settings
from swarm.agents import AGENTS
from swarm.steering import Steering

README = PROJECT / "README.md"


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
    """README's example, as it stands there, and its class in ``AGENTS``."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "(Agent)" in block]
    assert len(example.splitlines()) <= 12
    names: dict[str, Any] = {}
    exec(example, names)
    monkeypatch.setattr("swarm.steering.AGENTS", (*AGENTS, names["Jitters"]))
    steering = Steering.of(load_settings([], {}))
    assert steering is not None
    for loss in (1.0, 4.0, 1.0, 4.0):
        steering.add(loss, 0.3)
    assert steering.cycle(80, 0.1, 1.0).changed == {"lr_factor": 0.5}


def test_each_agent_has_a_file_of_its_own():
    folder = PROJECT / "swarm" / "agents"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base"}
    assert {kind.__module__ for kind in AGENTS} == {f"swarm.agents.{name}" for name in files}
    assert len(files) == len(AGENTS)
