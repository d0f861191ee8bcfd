"""GPTQ's Hessians of a run: from the batches that training would take next, on training's clock."""

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from artifact.quantisation.hessians import collect
from errors import InputError

if TYPE_CHECKING:
    from training.trainer import Trainer

REHEARSALS = 3  # of one micro-batch: a host that does something else once must not count
MARGIN = 1.25  # over the time that was measured: a batch may come late, ranks wait for each other


class Calibration:
    """What comes after the last step and still reads training data, so the budget must hold it.

    Args:
        trainer: whose model and batches it takes; ranks share the batches as they do in training.

    Attributes:
        tokens: over all ranks: ``calibration_tokens``, up to a whole micro-batch a rank.
        reserved, seconds: as measured before training, and as it was; 0 until then.
    """

    def __init__(self, trainer: "Trainer") -> None:
        settings = trainer.settings
        self.trainer = trainer
        at_once = settings.train_batch_tokens // settings.accumulation(trainer.world.size)
        self.micro_batches = math.ceil(settings.calibration_tokens / at_once)
        self.tokens = self.micro_batches * at_once
        self.reserved = self.seconds = 0.0

    @property
    def facts(self) -> dict[str, float]:
        """For log and summary."""
        return {"tokens": self.tokens, "reserved": self.reserved, "seconds": self.seconds}

    def reserve(self) -> None:
        """Measure what it will take by one micro-batch; leaves no trace in the trainer.

        A run that counts iterations has nothing to reserve seconds from.

        Raises:
            InputError: that is all that the run has.
        """
        wallclock = self.trainer.settings.wallclock
        if not wallclock or not self.micro_batches:
            return
        self.reserved = self._rehearse()
        if self.reserved >= wallclock:
            raise InputError(
                f"calibration takes {self.reserved:.1f} of the wallclock's {wallclock:.1f} s; "
                "give fewer --calibration-tokens"
            )

    def _rehearse(self) -> float:
        loader = self.trainer.loader
        position = loader.position
        self._collect({}, 1)  # compiles what there is to compile
        once = statistics.median(self._seconds_of_one() for _ in range(REHEARSALS))
        seconds = MARGIN * self.micro_batches * once
        loader.position = position
        return self.trainer.world.agree(seconds, False)[0]

    def _seconds_of_one(self) -> float:
        begin = time.perf_counter()
        self._collect({}, 1)
        return time.perf_counter() - begin

    def hessians(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The Hessians of ``artifact.quantisation.hessians.collect`` over all ranks' batches.

        A matrix whose inputs overflow has none, so that it is rounded to nearest.

        Args:
            weights: that will be exported, as ``Trainer.holding`` takes them.

        Returns:
            by parameter, fp32 on the device; none where ``calibration_tokens`` is 0.
        """
        if not self.micro_batches:
            return {}
        begin = time.perf_counter()
        found = self._collect(weights, self.micro_batches)
        self.seconds = time.perf_counter() - begin
        return found

    def _collect(self, weights: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        with self.trainer.holding(weights):
            found = collect(self.trainer.model, self._batches(count))
        sums = {name: self.trainer.world.sum_(hessian) for name, hessian in found.items()}
        # Asking a GPU for an answer also waits for it, so the clock sees all of the work.
        return {name: total for name, total in sums.items() if torch.isfinite(total).all()}

    def _batches(self, count: int) -> Iterator[Tensor]:
        while count > 0:
            step = self.trainer.loader.next_step()[:count]
            yield from (tokens for tokens, _ in step)
            count -= len(step)
