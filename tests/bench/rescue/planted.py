"""A run with a trouble in this process, on a small network, looked at from outside."""

from contextlib import ExitStack

import torch
from torch import Tensor

from bench.rescue.baselines import AdaGC, ZClip
from bench.rescue.site import Clock, Site
from bench.rescue.troubles import Plant
from runtime.progress import Progress
from settings.variants import Variant
from swarm.steering import Steering
from training.loop import Loop
from training.schedule import Moment
from training.trainer import Trainer


class Planted:
    """A run of a trainer.

    Attributes:
        losses: of each step.
        seen, norms: of each step's gradients, before and after the clip.
        levers: values of each step's rate and momentum.
    """

    def __init__(
        self,
        trainer: Trainer,
        plant: Plant | None = None,
        guard: ZClip | AdaGC | None = None,
        seed: int = 1,
    ) -> None:
        self.trainer, self.clock = trainer, Clock(1.0)
        self.site = Site(trainer, seed, self.clock)
        self.losses: list[float] = []
        self.seen: list[float] = []
        self.norms: list[float] = []
        self.levers: list[tuple[float, float]] = []
        take = trainer.step

        def noted(step: int, moment: Moment, variant: Variant | None = None) -> Tensor:
            numbers = take(step, moment, variant)
            self.losses.append(numbers[0].item())
            self.seen.append(numbers[1].item())
            gradients = [p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]
            self.norms.append(torch.stack(gradients).norm().item())
            levers = trainer.levers
            self.levers.append((levers.value("lr_scale"), levers.value("momentum")))
            return numbers

        trainer.step = noted
        settings = trainer.settings
        with ExitStack() as stack:
            stack.enter_context(self.clock.worn())
            stack.enter_context(self.site.before_steps(self.clock.count))
            if plant:
                stack.enter_context(plant(self.site))
            if guard:
                stack.enter_context(self.site.gradients(guard))
            nowhere = Progress(None, None, enabled=False)
            steering = Steering.of(settings)
            Loop(trainer, settings, None, nowhere, lambda *_: 1.0, steering).run()
