"""The agents. A new one is a file of this folder, and its class in ``AGENTS``.

An agent's fields are its constants. ``of`` returns the agent of a run, or None if the run has no
use for it. ``swarm.agents.base`` has the base class.
"""

from swarm.agents.base import Agent
from swarm.agents.health import GradientHealth
from swarm.agents.knowledge import KgWeight
from swarm.agents.learning_rate import LearningRate
from swarm.agents.mtp import MtpWeight
from swarm.agents.qat import QatTiming

try:
    from swarm.agents.frontier import FRONTIER
except ModuleNotFoundError as error:
    if error.name != "swarm.agents.frontier":
        raise
    FRONTIER = ()  # a packed file has only the agents of its run

AGENTS: tuple[type[Agent], ...] = (
    QatTiming,
    KgWeight,
    GradientHealth,
    MtpWeight,
    LearningRate,
    *FRONTIER,
)
"""In the order in which they propose and vote. Each names the sets that it belongs to."""
