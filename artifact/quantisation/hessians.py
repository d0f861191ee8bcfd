"""Hessians of a model's matrices: ``X^T X`` of each matrix's inputs, from batches of tokens."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from artifact.quantisation.sensitivity import Sensitivities
from artifact.quantisation.steps import ROWS
from model.gpt import GPT
from model.hooks import HEAD, Site
from model.parameters import ParameterSpec, parameters

EMBEDDING = "tok_emb"
SHARED = {"k": "q", "v": "q"}  # products that read the same inputs as another product


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
        with exact_products_of_bf16(y):
            self.sums[key].addmm_(x.T, x)
        return y

    def of(self, spec: ParameterSpec) -> Tensor | None:
        """Return (n, cols, cols) fp32 for a parameter of n matrices; None if it has no products."""
        slices = [(spec.product, HEAD.layer)] if spec.product else spec.slices
        keys = [(SHARED.get(matrix, matrix), layer) for matrix, layer in slices]
        if not keys or not all(matrix in self.matrices for matrix, _ in keys):
            return None
        return torch.stack([self.sums[key] for key in keys])


@contextmanager
def exact_products_of_bf16(values: Tensor) -> Iterator[None]:
    """Let a GPU multiply fp32 numbers as TF32, which holds bf16 exactly; sums stay fp32."""
    before = torch.get_float32_matmul_precision()
    if values.is_cuda and values.dtype == torch.bfloat16:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def collect(model: GPT, batches: Iterable[Tensor], by_loss: bool = False) -> dict[str, Tensor]:
    """Return the Hessian of every matrix of ``model`` that has one, by parameter.

    A batch costs one forward pass without the loss, the layers' products once more, and
    ``2 tokens (3 C^2 + M^2)`` fp32 FLOPs a layer: 0.6 TFLOP a layer for 98,304 tokens of preset
    ``seed``. Ranks may each pass their own batches: sums over ranks are the Hessians of all.

    Args:
        model: holding the weights that will be quantised.
        batches: (B, T) int tokens on the model's device.
        by_loss: whether sensitivities are wanted, too: they take a backward pass of 8,192 tokens a
            batch.

    Returns:
        (n, cols, cols) fp32 for each bank (n, rows, cols), and (1, C, C) for the output head;
        sensitivities (n, rows) fp32 under the parameter's name and ``ROWS``.

    Raises:
        ValueError: no batch.
    """
    hessians, sensitivities, count = Hessians(), Sensitivities(model), 0
    for tokens in batches:
        count += tokens.numel()
        hidden = model.hidden(tokens, hook=hessians)
        hessians(HEAD, hidden, hidden)
        if by_loss:
            sensitivities.add(tokens)
    if not hessians.sums:
        raise ValueError("Hessians need at least one batch of tokens")
    specs = parameters(model.config)
    found = {spec.name: hessians.of(spec) for spec in specs}
    found |= {spec.name + ROWS: sensitivities.of(spec) for spec in specs}
    if by_loss and model.config.tie_embeddings:
        head, rows = found[EMBEDDING], found[EMBEDDING + ROWS]
        if head is not None and rows is not None:
            both = sensitivities.with_inputs(head, rows, count)
            found[EMBEDDING], found[EMBEDDING + ROWS] = both
    return {name: hessian for name, hessian in found.items() if hessian is not None}
