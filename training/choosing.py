"""Which weights a run exports, where that is in doubt: those with the least loss on unseen tokens.

The tokens are those that training would take next, never the validation split.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.batch import Batch
from errors import DivergedError
from model.parameters import exported, parameters
from runtime import checkpoint
from training.snapshots import holding
from training.trainer import Trainer

Weights = Mapping[str, Tensor]

RECENT = 10  # steps whose mean loss is compared
RISE = 1.15  # of that mean over its lowest, from which on the end of a run is in doubt
BETTER = 1.02  # loss of the last weights over that of earlier ones, from which on a run diverged
EVALUATIONS = 12  # of a readout of three averages at most, both ends included
TABLES = ("table", "head")  # rules of parameters whose share of an average is tried apart
RESERVED = 1.25  # times what a rehearsal took


class Course:
    """What the steps' losses say about the end of a run.

    Attributes:
        first: loss of the first step.
        skipped: steps that changed nothing.
        rollbacks: times that the swarm restored its copy of the weights.

    Args:
        state: as ``state`` returned it; empty: no step is taken yet.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.skipped, self.rollbacks = 0, state.get("rollbacks", 0)
        self.first, self._lowest = (state.get(name, math.inf) for name in ("first", "lowest"))
        self._recent: deque[float] = deque(state.get("recent", ()), RECENT)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON with NaN; skipped steps are counted anew when resumed."""
        numbers = {"first": self.first, "lowest": self._lowest, "rollbacks": self.rollbacks}
        return numbers | {"recent": list(self._recent)}

    def add(self, loss: float, skipped: int) -> None:
        """Add a finished step: its loss, and the steps skipped so far."""
        if not self._recent:
            self.first = loss
        self._recent.append(loss)
        self.skipped = skipped
        if (mean := self.mean) <= self._lowest:
            self._lowest = mean

    @property
    def mean(self) -> float:
        """Mean loss of the last steps; NaN if one of them has none."""
        return math.fsum(self._recent) / max(1, len(self._recent))

    @property
    def in_doubt(self) -> bool:
        """Whether the last weights may be worse than earlier ones."""
        return self.rollbacks > 0 or not self.mean <= RISE * self._lowest


class Choice(NamedTuple):
    """The weights to export.

    Attributes:
        name: "raw", "averaged", "kept" (by the swarm) or a checkpoint's.
        weights: by name; empty: the live ones.
        losses: mean nats of the weights that were compared, by name.
        diverged: whether they are not those of the run's end.
    """

    name: str
    weights: Weights
    losses: Mapping[str, float]
    diverged: bool


class Chooser:
    """Compares weights of a run on held-out windows.

    A run that holds none out compares on the next micro-batch of each rank.

    Args:
        trainer: of the run.

    Attributes:
        reserved: seconds that a comparison takes, as measured; 0: not measured.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.reserved = trainer, 0.0
        self._batch: Batch | None = None

    def rehearse(self) -> None:
        """Measure how long a comparison takes; compiles what it needs, and changes nothing."""
        self.loss({})
        began = time.perf_counter()
        self.loss({})
        count = EVALUATIONS if self.trainer.settings.readout else 2
        seconds = count * RESERVED * (time.perf_counter() - began)
        self.reserved, self._batch = self.trainer.world.agree(seconds, False)[0], None

    def compares(self, step: int) -> bool:
        """Return whether weights are compared after ``step`` steps, without doubt of their end."""
        return self.trainer.settings.readout or self.unsure(step)

    def unsure(self, step: int) -> bool:
        """Return whether raw and averaged weights are compared after ``step`` steps.

        On a CPU they always are; on a GPU only if the average is young, so that no run of a
        preset's length takes the time. Text that steps took before favours the raw weights, which
        remember it, so a GPU's run of several passes compares on held-out windows or not at all.
        """
        trainer = self.trainer
        if trainer.world.device.type == "cpu":
            return True
        unseen = trainer.held_out is not None or not trainer.loader.repeats
        return unseen and trainer.averaging.young(step)

    def loss(self, weights: Weights) -> float:
        """Return the mean nats a token over all ranks, the same on each; may be NaN."""
        nats = self._nats(weights)
        return math.fsum(nats) / len(nats)

    @torch.no_grad()
    def _nats(self, weights: Weights) -> list[float]:
        """Return the nats of each held-out window, or of a whole micro-batch."""
        trainer, loader = self.trainer, self.trainer.loader
        if trainer.held_out:
            return trainer.held_out.nats(trainer.model, weights, trainer.held_out.count)
        if self._batch is None:
            position, noise = loader.position, loader.noise
            self._batch = loader.next_step()[0]
            loader.position, loader.noise = position, noise
        with holding(trainer.model, weights, trainer.world):
            mean = trainer.model.score(self._batch.tokens, self._batch.targets).mean()
        return [trainer.world.sum_(mean).item() / trainer.world.size]

    def choose(self, step: int, averaged: Weights, course: Course, folder: Path | None) -> Choice:
        """Return the weights to export after ``step`` steps.

        Without doubt they are the averaged ones, if there are any, and nothing is compared. With a
        readout another blend of the live weights and an average replaces them if it is surely
        better.

        Args:
            step: number of steps.
            averaged: empty if there are none, or the live ones are wanted.
            course: of the run.
            folder: of its checkpoints, on rank 0.

        Raises:
            DivergedError: no weights are finite.
        """
        unsure = bool(averaged) and self.unsure(step)
        name = "averaged" if averaged else "raw"
        reading = bool(averaged) and self.trainer.settings.readout
        if not unsure and not course.in_doubt and not reading:
            return Choice(name, averaged, {}, diverged=False)
        ends = {name: averaged, "raw": {}}
        nats = {each: self._nats(weights) for each, weights in ends.items()}
        losses = {each: math.fsum(found) / len(found) for each, found in nats.items()}
        if unsure or course.in_doubt:
            name = min(losses, key=lambda each: finite(losses[each]))
        if reading:
            name = self._read(nats, name, ends, losses)
        last, weights = finite(losses[name]), ends[name]
        diverged = not last <= RISE * course.first
        if course.in_doubt:
            for earlier, found in self._earlier(folder):
                losses[earlier] = self.loss(found)
                if BETTER * losses[earlier] <= last and math.isfinite(losses[earlier]):
                    return Choice(earlier, found, losses, diverged=True)
        if last == math.inf:
            # A resumed run has counted its own steps only.
            skipped = f"{course.skipped} of {step} steps were skipped, and " * bool(course.skipped)
            raise DivergedError(
                f"training diverged: {skipped}no finite weights are kept, so there is nothing to "
                "export; lower the learning rates"
            )
        return Choice(name, weights, losses, diverged)

    def _read(
        self,
        nats: Mapping[str, list[float]],
        name: str,
        ends: dict[str, Weights],
        losses: dict[str, float],
    ) -> str:
        """Return the name of the best blend if it is surely better than the choice so far.

        Adds it to the ends, and the losses of all blends.

        Args:
            nats: by window, of the raw weights and of the choice so far.
            name: of the choice so far.
            ends: weights by name.
            losses: by name.
        """
        from training.readout import Readout, distinct, mean_of, surely_better

        trainer = self.trainer
        live = {each: w.detach().clone() for each, w in exported(trainer.model).items()}
        tables = [spec.name for spec in parameters(trainer.model.config) if spec.rule in TABLES]
        averages = distinct(trainer.averaging.every(), live)
        if not averages:
            return name
        readout = Readout(self._nats, live, averages, tables)
        best = readout.search(nats["raw"])
        losses |= {blend.name: mean_of(found) for blend, found in readout.scored.items()}
        if not surely_better(readout.scored[best], nats[name]):
            return name
        ends[best.name] = readout.weights(best)
        return best.name

    def _earlier(self, folder: Path | None) -> Iterator[tuple[str, Weights]]:
        """Yield weights from before the run's end, the latest first."""
        names = exported(self.trainer.model)
        if kept := self.trainer.snapshots.weights():
            yield "kept", {name: kept[name] for name in names}
        paths = checkpoint.every(folder)[::-1] if folder else []
        world = self.trainer.world
        for index in range(int(world.agree(float(len(paths)), False)[0])):
            if not paths:  # rank 0 gives them to the others
                yield "", {}
                continue
            tensors = checkpoint.load(paths[index], world.device)[0]
            yield paths[index].name, {name: tensors[f"model.{name}"] for name in names}


def finite(loss: float) -> float:
    """Return a loss that can be compared: infinity for NaN."""
    return loss if math.isfinite(loss) else math.inf
