"""Settings of the swarm: its agents, and when a proposal passes."""

from pydantic import Field, PositiveInt

from settings.section import Confidence, CountList, NameList, Section


class SwarmSettings(Section):
    """Its agents, and when a proposal passes."""

    swarm: bool = Field(default=True, description="agents steer the run's levers")
    swarm_every: PositiveInt = Field(default=80, description="steps between the agents' cycles")
    agents_off: NameList = Field(
        default=[], description="names of agents that stay out of it: qat, kg, health, mtp, lr"
    )
    swarm_alone: Confidence = Field(
        default=0.85, description="confidence at which one agent's proposal needs no second"
    )
    swarm_objection: Confidence = Field(
        default=0.6, description="confidence of an objection that stops one agent alone"
    )
    swarm_withdrawn: Confidence = Field(
        default=0.3, description="confidence below which an agent withdraws its proposal"
    )
    swarm_windows: CountList = Field(
        default=[], description="windows that agents choose from, 0: the whole context; none: no"
    )
    swarm_loops: CountList = Field(
        default=[], description="values of num_loops that agents choose from; none: no choice"
    )
    swarm_heads: CountList = Field(
        default=[], description="numbers of trained MTP heads that agents choose from; none: no"
    )
