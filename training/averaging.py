"""Averages of the weights over time: exponential (EMA) or of the latest snapshots (LAWA)."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from settings.optimizer import OptimizerSettings

# Largest window of an exponential average, as a fraction of the steps so far.
MOST_SHARE = 0.2
# Mean ages of a readout's averages, as fractions of the run's steps, by name. The middle one moves
# in each step, as the average of a run without a readout does.
AGES = {"short": 0.015, "long": 0.13}
MIDDLE_AGE = 0.045
MOVED_EVERY = 8  # steps between moves of the others, where the youngest has more
# Gathers whole tensors, by name, from each rank's parts; ``dict`` on one rank.
Join = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def longest_decay(settings: OptimizerSettings, step: int, progress: float) -> float:
    """Return the decay of an exponential average that is old enough.

    With ``ema_share`` its half-life is this share of the run's steps, as the steps so far and their
    progress predict them. A readout has a share of its own.

    Args:
        settings: of the average.
        step: steps so far.
        progress: the fraction of the run that they took.
    """
    share = settings.ema_share or settings.readout * MIDDLE_AGE * math.log(2)
    if not share:
        return settings.ema_decay
    return 2 ** (-progress / (share * step)) if step else 0.0


def decay_at(longest: float, step: int) -> float:
    """Return the decay of exponential averages in a step.

    The window of an average, 1 / (1 - decay) steps, is at most a fraction of the steps so far. So
    the random weights of the start, and those of the first steps, are soon forgotten.

    Args:
        longest: decay in a long run.
        step: from 1.
    """
    return min(longest, 1 - 1 / max(1.0, MOST_SHARE * step))


def lean_at(strength: float, decay: float) -> float:
    """Return the lever ``lean``: a look-ahead by ``strength`` mean steps, from averages of a decay.

    0 while the averages are too young to differ from the weights.
    """
    return strength * (1 - decay) / decay if decay else 0.0


class Averaging:
    """No averaging; the base of the two that do."""

    def move(self, decay: float | None = None) -> None:
        """Move exponential averages towards the weights, after a step that changed them.

        Args:
            decay: in this step; None: the longest.
        """

    def take(self, step: int) -> None:
        """Take a snapshot of the weights after ``step`` (from 1) if one is due."""

    def move_others(self, step: int, progress: float) -> None:
        """Move further averages after ``step`` (from 1) steps, a fraction of the run."""

    def every(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights of every average, by its name; all ranks must call it."""
        return {"average": weights} if (weights := self.weights()) else {}

    def young(self, step: int) -> bool:
        """Return whether the average after ``step`` steps has not reached its full length."""
        return False

    @property
    def exponential(self) -> dict[str, Tensor]:
        """Live averages by name that an optimizer may move itself, in place of ``move``.

        Empty for another kind of average.
        """
        return {}

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged weights by name; empty if there are none yet.

        They are whole, so all ranks must call it.
        """
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return live state tensors by name, for checkpoints."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``tensors`` returned."""

    def restart(self) -> None:
        """Discard the averages; the live weights are the first to be averaged."""


class ExponentialAverage(Averaging):
    """``average <- decay * average + (1 - decay) * weight`` after each step.

    Args:
        weights: live parameters by name, (any shape) fp32, or this rank's parts of them.
        decay: the longest, in a step.
        join: gathers whole tensors from the ranks' parts.
        of_run: whether the run's length sets the decays instead; no run then ends with a young
            average.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        decay: float,
        join: Join = dict,
        *,
        of_run: bool = False,
    ) -> None:
        self._of_run = of_run
        self._live = [weight.detach() for weight in weights.values()]
        self._average = {name: weight.detach().clone() for name, weight in weights.items()}
        self._decay, self._join = decay, join

    @torch.no_grad()
    def move(self, decay: float | None = None) -> None:
        rate = 1 - (self._decay if decay is None else decay)
        torch._foreach_lerp_(list(self._average.values()), self._live, rate)

    def young(self, step: int) -> bool:
        return not self._of_run and decay_at(self._decay, step) < self._decay

    @property
    def exponential(self) -> dict[str, Tensor]:
        return self._average

    def weights(self) -> dict[str, Tensor]:
        return self._join(self._average)

    def tensors(self) -> dict[str, Tensor]:
        return {f"average.{name}": tensor for name, tensor in self._average.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self._average.items():
            tensor.copy_(tensors[f"average.{name}"])

    @torch.no_grad()
    def restart(self) -> None:
        torch._foreach_copy_(list(self._average.values()), self._live)


class SeveralAverages(ExponentialAverage):
    """An exponential average, and others of ``AGES`` that move every ``MOVED_EVERY`` steps.

    They move in each step of a run in which the youngest is no older than ``MOVED_EVERY`` steps.

    Args:
        weights, join: as ``ExponentialAverage`` takes them.
    """

    def __init__(self, weights: Mapping[str, Tensor], join: Join = dict) -> None:
        super().__init__(weights, 0.0, join, of_run=True)
        self._others = {
            age: {name: weight.detach().clone() for name, weight in weights.items()} for age in AGES
        }

    @torch.no_grad()
    def move_others(self, step: int, progress: float) -> None:
        # The first steps, too: else the averages would be the weights of the start.
        often = step < MOVED_EVERY or AGES["short"] * step <= MOVED_EVERY * progress
        every = 1 if often else MOVED_EVERY
        if step % every:
            return
        youngest = 1 - every / max(every, MOST_SHARE * step)
        for age, average in self._others.items():
            steps = AGES[age] * step
            # A mean age of few steps has to be exact: decay / (1 - decay).
            decay = steps / (steps + progress) if often else math.exp(-every * progress / steps)
            torch._foreach_lerp_(list(average.values()), self._live, 1 - min(youngest, decay))

    def every(self) -> dict[str, dict[str, Tensor]]:
        return super().every() | {age: self._join(own) for age, own in self._others.items()}

    def tensors(self) -> dict[str, Tensor]:
        others = {
            f"average.{age}.{name}": tensor
            for age, own in self._others.items()
            for name, tensor in own.items()
        }
        return super().tensors() | others

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        for age, own in self._others.items():
            for name, tensor in own.items():
                kept = tensors.get(f"average.{age}.{name}")  # None: of a run without a readout
                tensor.copy_(tensors[f"average.{name}"] if kept is None else kept)

    @torch.no_grad()
    def restart(self) -> None:
        super().restart()
        for own in self._others.values():
            torch._foreach_copy_(list(own.values()), self._live)


class LatestAverage(Averaging):
    """LAWA: the mean of the latest ``count`` snapshots, one every ``every`` steps.

    Kaddour 2022, arXiv:2209.14981.

    Args:
        weights: live parameters by name, or this rank's parts of them.
        count: number of snapshots.
        every: steps between snapshots.
        join: gathers whole tensors from the ranks' parts.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], count: int, every: int, join: Join = dict
    ) -> None:
        self._live = {name: weight.detach() for name, weight in weights.items()}
        self._snapshots: list[dict[str, Tensor]] = []
        self._count, self._every, self._join = count, every, join

    def take(self, step: int) -> None:
        if step % self._every == 0:
            taken = {name: weight.clone() for name, weight in self._live.items()}
            self._snapshots = [*self._snapshots, taken][-self._count :]

    def young(self, step: int) -> bool:
        return step < self._count * self._every

    def weights(self) -> dict[str, Tensor]:
        if not self._snapshots:
            return {}
        return self._join(
            {
                name: torch.stack([snapshot[name] for snapshot in self._snapshots]).mean(0)
                for name in self._live
            }
        )

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"average.{index}.{name}": tensor
            for index, snapshot in enumerate(self._snapshots)
            for name, tensor in snapshot.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        indices = {int(name.split(".")[1]) for name in tensors if name.startswith("average.")}
        self._snapshots = [
            {
                name: tensors[f"average.{index}.{name}"].to(weight.device, copy=True)
                for name, weight in self._live.items()
            }
            for index in sorted(indices)
        ]

    def restart(self) -> None:
        self._snapshots = []


def make_averaging(
    settings: OptimizerSettings, weights: Mapping[str, Tensor], join: Join
) -> Averaging:
    """Return the averaging of a run.

    Args:
        settings: the kind, and its parameters.
        weights, join: as ``ExponentialAverage`` takes them.
    """
    if settings.averaging == "ema" and settings.readout:
        return SeveralAverages(weights, join)
    if settings.averaging == "ema":
        of_run = settings.ema_share > 0
        return ExponentialAverage(weights, settings.ema_decay, join, of_run=of_run)
    if settings.averaging == "lawa":
        return LatestAverage(weights, settings.lawa_k, settings.lawa_freq, join)
    return Averaging()
