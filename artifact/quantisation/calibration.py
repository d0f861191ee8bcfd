"""GPTQ's Hessians of a run: from the batches that training would take next, on training's clock."""

import math
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from artifact.quantisation.hessians import collect
from data.loader import BatchLoader
from model.gpt import GPT
from runtime.ranks import World

REHEARSALS = 3  # of one micro-batch; their median ignores a host that was busy once
MOST_SHARE = 0.1  # of the wallclock that calibration may take
MARGIN = 1.25  # over the measured time: a batch may come late, ranks wait for each other


class Calibration:
    """Collects Hessians after the last step, in time that the budget reserves for it.

    Args:
        model: whose inputs of matrices are collected.
        loader: of training's batches; ranks share them as they do in training.
        world: the ranks.
        tokens: over all ranks; rounded up to a whole micro-batch of every rank.
        by_loss: whether the sensitivities of `artifact.quantisation.sensitivity` are wanted, too.

    Attributes:
        tokens: the rounded number.
        reserved: seconds that it will take, as measured before training; 0: not measured.
        seconds: seconds that it took; 0 before ``hessians``.
    """

    def __init__(
        self, model: GPT, loader: BatchLoader, world: World, tokens: int, by_loss: bool = False
    ) -> None:
        self.model, self.loader, self.world, self.by_loss = model, loader, world, by_loss
        self.micro_batches = math.ceil(tokens / loader.micro_batch_tokens)
        self.tokens = self.micro_batches * loader.micro_batch_tokens
        self.reserved = self.seconds = 0.0

    @property
    def facts(self) -> dict[str, float]:
        """Numbers for log and summary."""
        return {"tokens": self.tokens, "reserved": self.reserved, "seconds": self.seconds}

    def reserve(self, wallclock: float) -> str:
        """Measure the time of one micro-batch, and reserve that of all; changes nothing else.

        All together take at most ``MOST_SHARE`` of the wallclock; those beyond are left out.

        Args:
            wallclock: seconds of the run; 0: a run that counts iterations reserves nothing.

        Returns:
            a line that says how many tokens are left, if they are fewer.
        """
        if not wallclock or not self.micro_batches:
            return ""
        once, wanted = self._rehearse(), self.tokens
        self.micro_batches = min(self.micro_batches, int(MOST_SHARE * wallclock / once))
        self.tokens = self.micro_batches * self.loader.micro_batch_tokens
        self.reserved = self.micro_batches * once
        if self.tokens == wanted:
            return ""
        return (
            f"shorter   calibration of {self.tokens:,} in place of {wanted:,} tokens, to take at "
            f"most {MOST_SHARE:.0%} of {wallclock:g} s"
        )

    def _rehearse(self) -> float:
        """Return the seconds to reserve for one micro-batch, the same on each rank."""
        position = self.loader.position
        self._collect(1)  # compiles kernels
        once = statistics.median(self._seconds_of_one() for _ in range(REHEARSALS))
        self.loader.position = position
        return self.world.agree(MARGIN * once, False)[0]

    def _seconds_of_one(self) -> float:
        begin = time.perf_counter()
        self._collect(1)
        return time.perf_counter() - begin

    def hessians(self) -> dict[str, Tensor]:
        """Return the Hessians of ``artifact.quantisation.hessians.collect`` over all ranks.

        A matrix whose inputs overflow has none, so that it is rounded to nearest.

        Returns:
            by parameter, fp32 on the device; empty if there are no tokens.
        """
        if not self.micro_batches:
            return {}
        begin = time.perf_counter()
        found = self._collect(self.micro_batches)
        self.seconds = time.perf_counter() - begin
        return found

    def _collect(self, count: int) -> dict[str, Tensor]:
        found = collect(self.model, self._batches(count), self.by_loss)
        sums = {name: self.world.sum_(hessian) for name, hessian in found.items()}
        # Reading the answer also waits for the GPU, so the clock counts all of its work.
        return {name: total for name, total in sums.items() if torch.isfinite(total).all()}

    def _batches(self, count: int) -> Iterator[Tensor]:
        while count > 0:
            step = self.loader.next_step()[:count]
            yield from (tokens for tokens, *_ in step)
            count -= len(step)
