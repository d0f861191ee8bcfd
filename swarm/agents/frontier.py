"""The agents of the set ``frontier`` alone; a packed file of a run of another set has none."""

from swarm.agents.base import Agent
from swarm.agents.guard import Guard
from swarm.agents.heads import Heads
from swarm.agents.loops import Loops
from swarm.agents.memory import Memory
from swarm.agents.pace import Pace
from swarm.agents.rate import Rate
from swarm.agents.recovery import Recovery
from swarm.agents.sight import Sight
from swarm.agents.stride import Stride

FRONTIER: tuple[type[Agent], ...] = (
    *(Pace, Sight, Loops, Heads),
    *(Guard, Rate, Stride, Memory, Recovery),
)
