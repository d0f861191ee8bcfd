"""Parts of the code that only some runs use, which a contest's file of another run leaves out."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from errors import InputError

if TYPE_CHECKING:
    from settings import Settings


def parts_of(settings: "Settings") -> dict[str, tuple[str, bool]]:
    """Return the option that needs each such module, and whether these settings do."""
    frontier = settings.swarm and settings.swarm_agents != "seed"
    # Agents of the set "seed" read no probe.
    probes = frontier if settings.probes is None else settings.probes > 0
    qat = settings.late_qat_threshold > 0 or "qat" in settings.agents_off
    return {
        "artifact.quantisation.lqer": ("lqer-rank", settings.lqer_rank > 0),
        "data.sieve": ("skip-noise", settings.skips_noise),
        "evaluation.samples": ("sample-every", settings.sample_every > 0),
        "kernels.attention.flash": ("attention-backend", settings.attention_backend == "flash"),
        "kernels.mlp.fp8": ("stages", any(each.precision == "fp8" for each in settings.stages)),
        "knowledge.edges": ("bigram-rows", settings.num_edges > 0),
        "knowledge.scores": ("kg-scores", bool(settings.kg_scores)),
        "swarm.agents.frontier": ("swarm-agents", frontier),
        "swarm.agents.seed": ("swarm and --swarm-agents", settings.swarm and not frontier),
        "swarm.agents.qat": ("late-qat-threshold", settings.swarm and qat),
        "swarm.trials": ("swarm-trials", frontier and settings.swarm_trials > 0),
        "training.probe": ("probes", probes),
        "training.readout": ("readout", settings.readout),
    }


def check_parts(settings: "Settings") -> None:
    """Raise InputError if a contest's file lacks what the settings need."""
    for module, (option, wanted) in parts_of(settings).items():
        if wanted and find_spec(module) is None:
            raise InputError(f"this file has no {module}; leave --{option} out")
