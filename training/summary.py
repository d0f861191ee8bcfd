"""The training part of a run's summary."""

from collections.abc import Mapping

import torch

from model.parameters import counts
from runtime.startup import Startup
from training.trainer import Trainer


def facts(trainer: Trainer, steps: int, seconds: float) -> dict[str, object]:
    """Return backends, parameters, steps, tokens, their rates, and rank 0's peak GPU memory in GiB.

    Args:
        trainer: of the run.
        steps: number of steps.
        seconds: of the budget that all steps took.
    """
    tokens = trainer.loader.position
    on_gpu = trainer.world.device.type == "cuda"
    everything, kept = counts(trainer.model)
    return {
        "parameters": everything,
        "exported_parameters": kept,
        "backend": trainer.backends.backend,
        "attention": trainer.backends.attention,
        "steps": steps,
        "tokens": tokens,
        "step_ms": 1000 * seconds / max(1, steps),
        "tokens_per_second": tokens / max(seconds, 1e-9),
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
    }


def clock_facts(
    startup: Startup, seconds: float, calibration: Mapping[str, float]
) -> dict[str, object]:
    """Return the seconds of startup and training, and the numbers of the calibration.

    Args:
        startup: of the run; its last phase has ended.
        seconds: of the budget that steps and calibration took.
        calibration: its numbers.
    """
    return {
        "startup_seconds": startup.total,
        "startup": startup.seconds,
        "warm_up_seconds": startup.after("network"),
        "train_seconds": seconds,
        "calibration": calibration,
    }
