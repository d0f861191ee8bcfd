"""The end of training: the weights to export, their Hessians, and numbers for the summary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from training.loop import Loop
from training.rank import Rank
from training.snapshots import holding
from training.summary import clock_facts, facts


class Calibrating(Protocol):
    """What `artifact.quantisation.calibration.Calibration` offers."""

    @property
    def facts(self) -> Mapping[str, float]:
        """Numbers for log and summary."""
        ...

    def hessians(self) -> Mapping[str, Tensor]:
        """Return the Hessians of the model's present weights, by parameter."""
        ...


@dataclass(frozen=True)
class Trained:
    """What training leaves, besides the live weights in the model.

    Attributes:
        step: number of steps.
        elapsed: seconds of the budget, calibration included.
        averaged: averages of the weights by name; empty if there are none.
        exported: weights to export, by name; empty: the live ones.
        hessians: of the weights to export, by parameter.
        facts: numbers for the summary.
    """

    step: int
    elapsed: float
    averaged: Mapping[str, Tensor]
    exported: Mapping[str, Tensor]
    hessians: Mapping[str, Tensor]
    facts: Mapping[str, object]


def finish(rank: Rank, loop: Loop, calibration: Calibrating) -> Trained:
    """Choose the weights to export and collect their Hessians, on the budget's clock.

    Args:
        rank: where to report.
        loop: after its last step.
        calibration: of the loop's model.
    """
    trainer, budget = loop.trainer, loop.budget
    found = facts(trainer, loop.step, budget.elapsed())
    rank.progress.phase("calibrating")
    budget.start()
    averaged = trainer.averaging.weights()
    # LAWA has no average before its first snapshot: the live weights are exported then.
    exported = averaged if rank.settings.export_weights == "averaged" else {}
    with holding(trainer.model, exported, rank.world):
        hessians = calibration.hessians()
    budget.stop()
    rank.log("calibration", **calibration.facts)
    elapsed = budget.elapsed()
    found |= clock_facts(rank.startup, elapsed, calibration.facts)
    found["exported_weights"] = "averaged" if exported else "raw"
    return Trained(loop.step, elapsed, averaged, exported, hessians, found)
