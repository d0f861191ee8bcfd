"""What the inputs of a model's matrices look like: ``X^T X`` of each, from batches of tokens.

The model reaches every product through its namespace of operations, so one that notes their inputs
on the way sees them all, whichever backend computes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import Operations
from model.gpt import GPT


class Recorder:
    """Sums of ``X^T X``, fp32, by the operation that X enters and its turn in a forward pass.

    Attributes:
        sums: ``projections`` (those within ``self_attention`` too), ``linear_add``, ``mlp`` (n, C,
            C), ``hidden`` (n, M, M) of the MLP's hidden state: lists of n tensors, one a layer.
    """

    def __init__(self) -> None:
        self.sums: dict[str, list[Tensor]] = {}
        self.turns: dict[str, int] = {}

    def add(self, place: str, x: Tensor) -> None:
        """Add the inputs x (..., in) of the next layer of ``place``."""
        x = x.detach().flatten(0, -2).float()
        turn = self.turns.get(place, 0)
        self.turns[place] = turn + 1
        sums = self.sums.setdefault(place, [])
        if turn == len(sums):
            sums.append(torch.zeros(x.size(-1), x.size(-1), device=x.device))
        sums[turn].addmm_(x.T, x)

    def watch(self, ops: Operations) -> Operations:
        """Operations like ``ops`` that note what enters its products."""

        def projections(x: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, ...]:
            self.add("projections", x)
            return ops.projections(x, *rest, **options)

        def self_attention(x: Tensor, *rest: Any, **options: Any) -> Tensor:
            self.add("projections", x)
            return ops.self_attention(x, *rest, **options)

        def linear_add(stream: Tensor, x: Tensor, weight: Tensor) -> Tensor:
            self.add("linear_add", x)
            return ops.linear_add(stream, x, weight)

        def mlp(x: Tensor, up: Tensor, down: Tensor, slope: float, *rest: Any) -> Tensor:
            self.add("mlp", x)
            self.add("hidden", F.leaky_relu(F.linear(x, up), slope).square())
            return ops.mlp(x, up, down, slope, *rest)

        return replace(
            ops,
            projections=projections,
            self_attention=self_attention,
            linear_add=linear_add,
            mlp=mlp,
        )


@torch.no_grad()
def collect(model: GPT, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The Hessian of every matrix of ``model`` that has one, by parameter.

    A batch costs one forward pass without the loss, one more product with the MLP's first matrix,
    and ``2 tokens (3 C^2 + M^2)`` fp32 FLOPs a layer: 0.6 TFLOP a layer for 98,304 tokens of preset
    ``seed``. Ranks may each take batches of their own: sums over ranks are the Hessians of all.

    Args:
        model: holding the weights that will be quantised.
        batches: (B, T) int tokens on the model's device.

    Returns:
        (n, cols, cols) fp32 for each bank (n, rows, cols), and (1, C, C) for the output head.

    Raises:
        ValueError: no batch.
    """
    recorder = Recorder()
    with _watched(model, recorder):
        for tokens in batches:
            recorder.turns.clear()
            recorder.add("head", model.hidden(tokens))
    if not recorder.sums:
        raise ValueError("Hessians need at least one batch of tokens")
    sums = {place: torch.stack(of_layers) for place, of_layers in recorder.sums.items()}
    return {
        "qo_bank": torch.cat((sums["projections"], sums["linear_add"])),
        "kv_bank": sums["projections"].repeat(2, 1, 1),
        "up_bank": sums["mlp"],
        "down_bank": sums["hidden"],
        "tok_emb" if model.config.tie_embeddings else "head": sums["head"],
    }


@contextmanager
def _watched(model: GPT, recorder: Recorder) -> Iterator[None]:
    ops = model.ops
    model.ops = recorder.watch(ops)
    try:
        yield
    finally:
        model.ops = ops
