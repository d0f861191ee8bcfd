"""Steps before the clock starts: they compile kernels, allocate memory and capture graphs."""

import time

import torch

from runtime.startup import Done, unmeasured
from settings.variants import Variant
from training.schedule import Moment
from training.trainer import Trainer

TIMED = 3  # steps of each variant but the first


def warm_up(trainer: Trainer, steps: int, done: Done = unmeasured) -> dict[Variant, float]:
    """Prepare every variant on a GPU, and run steps; then undo everything that they changed.

    Args:
        trainer: of the run.
        steps: of the first variant; each other runs no more than ``TIMED``.
        done: is called at the end of each phase.

    Returns:
        Seconds of a step, by variant; empty without steps.
    """
    on_gpu = trainer.world.device.type == "cuda"
    tensors = {name: tensor.clone() for name, tensor in trainer.state.tensors().items()}
    numbers = trainer.state.numbers()
    moment = Moment(progress=0.0, lr_scale=1.0, momentum=0.9, qat=False)
    done("copy of state")
    if on_gpu:
        trainer.prepare(moment, done)
        finished(trainer)
        done("first replays")
    paces = {}
    for variant in trainer.variants:
        count = steps if variant == trainer.variants[0] else min(steps, TIMED)
        if count:
            paces[variant] = time_steps(trainer, moment, variant, count)
    done("timed steps")
    trainer.state.load(tensors, numbers)
    trainer.update.optimizer.skipped.zero_()
    finished(trainer)  # The run's clock starts next, and must not count what is only launched.
    done("restored state")
    return paces


def time_steps(trainer: Trainer, moment: Moment, variant: Variant, count: int) -> float:
    """Return the mean seconds of ``count`` steps, without the first unless it is alone."""
    began = time.perf_counter()
    for step in range(count):
        if step == 1:
            began = finished(trainer)
        trainer.step(step, moment, variant)
    return (finished(trainer) - began) / max(1, count - 1)


def finished(trainer: Trainer) -> float:
    """Wait until the device has finished its steps; return the time."""
    if trainer.world.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
