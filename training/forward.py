"""The model's forward pass of a variant, with all that the variant fixes as constants."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from model.gpt import GPT
from model.plan import plan
from settings.variants import Variant


def forward_of(
    model: GPT, variant: Variant, compiled: bool
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return ``model.forward`` without the arguments that a variant fixes.

    Args:
        model: of the run.
        variant: its layers' visits, its MTP heads and the precision of its products.
        compiled: whether torch.compile makes a function of its own of each variant.
    """
    fixed = {
        "plan": plan(
            model.config, variant.loops, variant.window, variant.documents, variant.near_window
        ),
        "heads": variant.heads,
        "precision": variant.precision,
    }
    if not compiled:
        return partial(model, **fixed)

    def forward(tokens: Tensor, targets: Tensor, **given: Tensor | None) -> tuple[Tensor, Tensor]:
        return model(tokens, targets, **fixed, **given)

    # A code object of its own, because torch.compile limits how often it compiles each.
    forward.__code__ = forward.__code__.replace()
    return torch.compile(forward, dynamic=False, fullgraph=True)
