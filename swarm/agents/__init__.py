"""The agents. A new one is a file of this folder, and its class in ``AGENTS``.

An agent's fields are its constants. ``of`` returns the agent of a run, or None if the run has no
use for it. ``swarm.agents.base`` has the base class.
"""

from swarm.agents.base import Agent
from swarm.agents.guard import Guard
from swarm.agents.heads import Heads
from swarm.agents.health import GradientHealth
from swarm.agents.knowledge import KgWeight
from swarm.agents.learning_rate import LearningRate
from swarm.agents.loops import Loops
from swarm.agents.mtp import MtpWeight
from swarm.agents.pace import Pace
from swarm.agents.qat import QatTiming
from swarm.agents.rate import Rate
from swarm.agents.sight import Sight

AGENTS: tuple[type[Agent], ...] = (
    QatTiming,
    KgWeight,
    GradientHealth,
    MtpWeight,
    LearningRate,
    Pace,
    Sight,
    Loops,
    Heads,
    Guard,
    Rate,
)
"""In the order in which they propose and vote. Each names the sets that it belongs to."""
