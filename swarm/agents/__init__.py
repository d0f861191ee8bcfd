"""The agents. A new one is a file of this folder, and its class in ``AGENTS``.

An agent's fields are its constants. ``of`` returns the agent of a run, or None if the run has no
use for it. ``swarm.agents.base`` has the base class.
"""

from importlib.util import find_spec

from swarm.agents.base import Agent

# A packed file has only the agents of its run.
SHARED: tuple[type[Agent], ...] = ()
SEED: tuple[type[Agent], ...] = ()
FRONTIER: tuple[type[Agent], ...] = ()
if find_spec("swarm.agents.qat"):
    from swarm.agents.qat import QatTiming

    SHARED = (QatTiming,)
if find_spec("swarm.agents.seed"):
    from swarm.agents.seed import SEED
if find_spec("swarm.agents.frontier"):
    from swarm.agents.frontier import FRONTIER

AGENTS = (*SHARED, *SEED, *FRONTIER)
"""In the order in which they propose and vote. Each names the sets that it belongs to."""
