"""The end of training: the weights to export, their Hessians, and numbers for the summary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from runtime.device import memory_of_others
from runtime.ranks import World
from training.choosing import Choice, Chooser, Course
from training.loop import Loop
from training.rank import Rank
from training.snapshots import holding
from training.summary import clock_facts, facts


class Calibrating(Protocol):
    """What `artifact.quantisation.calibration.Calibration` offers."""

    micro_batches: int
    reserved: float

    def reserve(self, wallclock: float) -> str:
        """Measure and reserve time for it; return a line that says what was left out, if any."""
        ...

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


def finish(rank: Rank, loop: Loop, calibration: Calibrating, chooser: Chooser) -> Trained:
    """Choose the weights to export and collect their Hessians, on the budget's clock.

    Args:
        rank: where to report.
        loop: after its last step.
        calibration: of the loop's model.
        chooser: of the weights to export.

    Raises:
        DivergedError: the run diverged, and left nothing to export.
    """
    trainer, budget = loop.trainer, loop.budget
    found = facts(trainer, loop.step, budget.elapsed())
    found["noise_windows"] = sum(rank.world.gathered(trainer.loader.noise))
    found["others_gib"] = most_of_others(rank.world, loop.others_gib)
    rank.progress.phase("calibrating")
    budget.start()
    averaged = trainer.averaging.weights()
    # LAWA has no average before its first snapshot: the live weights are exported then.
    wanted = averaged if rank.settings.export_weights == "averaged" else {}
    checkpoints = rank.folder.checkpoints if rank.folder else None
    choice = chooser.choose(loop.step, wanted, loop.course, checkpoints)
    with holding(trainer.model, choice.weights, rank.world):
        hessians = calibration.hessians()
    for work, done in (("choosing", choice.losses), ("calibration", hessians)):
        if done:
            budget.spend(work)
    budget.stop()
    rank.log("calibration", **calibration.facts)
    elapsed = budget.elapsed()
    found |= clock_facts(rank.startup, elapsed, calibration.facts)
    found |= choice_facts(choice, loop.course)
    rank.log("export", step=loop.step, weights=choice.name, losses=choice.losses)
    return Trained(loop.step, elapsed, averaged, choice.weights, hessians, found)


def most_of_others(world: World, before: float) -> float:
    """Return the most GiB that other processes have of a rank's GPU, or had ``before``."""
    return max(world.gathered(max(before, memory_of_others(world.device))))


def choice_facts(choice: Choice, course: Course) -> dict[str, object]:
    """Return which weights are exported, and what went wrong on the way to them."""
    return {
        "exported_weights": choice.name,
        "held_out_nats": choice.losses,
        "skipped_steps": course.skipped,
        "rollbacks": course.rollbacks,
        "diverged": choice.diverged,
    }
