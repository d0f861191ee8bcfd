"""The training part of a run's summary."""

import torch

from training.trainer import Trainer


def facts(trainer: Trainer, steps: int, seconds: float) -> dict[str, object]:
    """Return backends, steps, tokens, their rates, and the peak memory of rank 0's GPU in GiB.

    Args:
        trainer: of the run.
        steps: number of steps.
        seconds: of the budget that all steps took.
    """
    tokens = steps * trainer.settings.train_batch_tokens
    on_gpu = trainer.world.device.type == "cuda"
    return {
        "backend": trainer.backends.backend,
        "attention": trainer.backends.attention,
        "steps": steps,
        "tokens": tokens,
        "step_ms": 1000 * seconds / max(1, steps),
        "tokens_per_second": tokens / max(seconds, 1e-9),
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
    }
