"""The agents of the set ``seed`` alone, those of the public system that this one rebuilt."""

from swarm.agents.base import Agent
from swarm.agents.health import GradientHealth
from swarm.agents.knowledge import KgWeight
from swarm.agents.learning_rate import LearningRate
from swarm.agents.mtp import MtpWeight

SEED: tuple[type[Agent], ...] = (KgWeight, GradientHealth, MtpWeight, LearningRate)
"""In the order in which they propose and vote."""
