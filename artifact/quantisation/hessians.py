"""Hessians of a model's matrices: ``X^T X`` of each matrix's inputs, from batches of tokens."""

from collections.abc import Iterable

import torch
from torch import Tensor

from model.blocks import HEAD, Site
from model.gpt import GPT


class Hessians:
    """A hook that adds up ``X^T X`` of the products' inputs in fp32, by matrix and layer.

    K and V read the same inputs as Q, so only Q's are summed.

    Attributes:
        sums: (in, in) fp32, by matrix and layer.
    """

    matrices = ("q", "o", "up", "down", "head")
    replaces = False

    def __init__(self) -> None:
        self.sums: dict[tuple[str, int], Tensor] = {}

    def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().flatten(0, -2).float()
        key = site.matrix, site.layer
        if key not in self.sums:
            self.sums[key] = torch.zeros(x.size(-1), x.size(-1), device=x.device)
        self.sums[key].addmm_(x.T, x)
        return y

    def of(self, matrix: str) -> Tensor:
        """Return (layers, in, in) fp32: one matrix's Hessian in each layer."""
        layers = sorted(layer for name, layer in self.sums if name == matrix)
        return torch.stack([self.sums[matrix, layer] for layer in layers])


@torch.no_grad()
def collect(model: GPT, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the Hessian of every matrix of ``model`` that has one, by parameter.

    A batch costs one forward pass without the loss, the layers' products once more, and
    ``2 tokens (3 C^2 + M^2)`` fp32 FLOPs a layer: 0.6 TFLOP a layer for 98,304 tokens of preset
    ``seed``. Ranks may each pass their own batches: sums over ranks are the Hessians of all.

    Args:
        model: holding the weights that will be quantised.
        batches: (B, T) int tokens on the model's device.

    Returns:
        (n, cols, cols) fp32 for each bank (n, rows, cols), and (1, C, C) for the output head.

    Raises:
        ValueError: no batch.
    """
    hessians = Hessians()
    for tokens in batches:
        hidden = model.hidden(tokens, hook=hessians)
        hessians(HEAD, hidden, hidden)
    if not hessians.sums:
        raise ValueError("Hessians need at least one batch of tokens")
    into_qkv = hessians.of("q")
    return {
        "qo_bank": torch.cat((into_qkv, hessians.of("o"))),
        "kv_bank": into_qkv.repeat(2, 1, 1),
        "up_bank": hessians.of("up"),
        "down_bank": hessians.of("down"),
        "tok_emb" if model.config.tie_embeddings else "head": hessians.of("head"),
    }
