"""Settings of the swarm: its agents, and when a proposal passes."""

from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveInt

from settings.section import AgentSet, Confidence, CountList, NameList, Section


class SwarmSettings(Section):
    """Its agents, and when a proposal passes."""

    swarm: bool = Field(default=True, description="agents steer the run's levers")
    swarm_every: PositiveInt = Field(
        default=80, description="most steps between the agents' cycles"
    )
    swarm_agents: AgentSet = Field(
        default="seed",
        description="set of agents: those of the published system, or those that bid",
    )
    agents_off: NameList = Field(
        default=[],
        description="agents that take no part: qat, kg, health, mtp, lr; of the set frontier pace, "
        "sight, loops, heads, rate, stride, memory, recovery, guard, qat",
    )
    swarm_trials: NonNegativeInt = Field(
        default=2,
        description="changes a run that its agents may try for some windows and take back; set "
        "frontier",
    )
    swarm_alone: Confidence = Field(
        default=0.85, description="confidence at which a proposal passes with one vote"
    )
    swarm_objection: Confidence = Field(
        default=0.6, description="confidence of an objection that blocks a single agent's proposal"
    )
    swarm_withdrawn: Confidence = Field(
        default=0.3, description="confidence below which an agent withdraws its proposal"
    )
    swarm_yoke: Path | None = Field(
        default=None,
        description="decision log, or its run folder, whose decisions the run obeys at the same "
        "progress in place of agents; such a run cannot be submitted",
    )
    probes: NonNegativeInt | None = Field(
        default=None,
        description="times a run that its averaged weights are scored on training windows held out "
        "for it; 0: never; not given: 32 where an agent reads a score, but at most 0.5 % of the "
        "wallclock; else never",
    )
    swarm_windows: CountList = Field(
        default=[],
        description="windows that agents choose from (0: whole context); empty: no choice",
    )
    swarm_loops: CountList = Field(
        default=[], description="values of num_loops that agents choose from; empty: no choice"
    )
    swarm_heads: CountList = Field(
        default=[], description="numbers of MTP heads that agents choose from; empty: no choice"
    )
