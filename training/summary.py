"""What a run's steps took, in numbers."""

import torch

from training.trainer import Trainer


def facts(trainer: Trainer, steps: int, seconds: float) -> dict[str, object]:
    """For the summary: backends, steps, tokens, their pace, and GiB of rank 0's GPU.

    Args:
        trainer: that took them.
        steps: so many.
        seconds: of the budget, for all of them.
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
