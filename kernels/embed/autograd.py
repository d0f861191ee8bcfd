"""The embedding of tokens and bigrams with RMSNorm and SmearGate, with fp32 gradients.

    x      = table[t] + scale * (bigram_table @ proj.T)[row]
    normed = x / sqrt(mean(x^2) + eps)
    out[i] = (1 - g) normed[i] + g normed[i - 1],  g = sigmoid(smear_gate)

With a scale, SmearGate comes before the norm and has one gate a position
(``kernels.embed.window``).

All rows of the small bigram table are projected once and the product is gathered. A position then
reads two rows and writes one. Kernels hash pairs of tokens as they need them; with edges, the
forward pass reads their rows from keys, as the backward pass does. Equal inputs give equal bits,
because gradients of the tables are sums over sorted keys (``kernels.embed.segment_sum``), without
atomics.
"""

# pyright: basic
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.common.streams import Side
from kernels.embed.backward import launch_backward
from kernels.embed.forward import Tables, Text, launch_forward
from kernels.embed.lookup_keys import lookup_keys
from kernels.embed.segment_sum import Lookups, segment_sum
from kernels.embed.window import launch_window_backward, launch_window_forward

# Lane of ``kernels.common.streams`` for the sort, and for a product of the bigram's gradients.
SORT_LANE: int | None = 0


def embed(
    tokens: Tensor,
    table: Tensor,
    smear_gate: Tensor,
    *,
    dtype: torch.dtype,
    eps: float,
    bos_id: int | None,
    bigram: tuple[Tensor, Tensor, Tensor] | None = None,
    smear_scale: Tensor | None = None,
    edges: Tensor | None = None,
) -> Tensor:
    """Compute ``kernels.embed.Embed``; equal inputs give equal bits of the gradients."""
    bigrams = bigram or (None, None, None)
    return Embed.apply(tokens, table, smear_gate, smear_scale, *bigrams, dtype, eps, bos_id, edges)


class Embed(torch.autograd.Function):
    """Save the tables and the ids; only the ids are as long as the batch."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens,
        table,
        smear_gate,
        smear_scale,
        bigram_table,
        projection,
        bigram_scale,
        dtype,
        eps,
        bos_id,
        edges,
    ):
        tokens, smear_gate = tokens.contiguous(), smear_gate.contiguous()
        copy, projected = table.to(dtype).contiguous(), None
        if bigram_table is not None:
            projected = F.linear(bigram_table.to(dtype), projection)
        text, keys = Text.of(tokens, tokens, bos_id), None
        if projected is not None and edges is not None:
            keys = lookup_keys(tokens, len(copy), len(projected), edges)
            text = Text.of(keys, tokens, bos_id, len(copy))
        of_bigrams = projected, bigram_scale, bigram_table, projection
        ctx.save_for_backward(tokens, copy, smear_gate, smear_scale, *of_bigrams, keys)
        ctx.eps, ctx.bos_id = eps, bos_id
        tables = Tables.of(copy, projected, bigram_scale, smear_gate)
        if smear_scale is not None:
            return launch_window_forward(text, tables, smear_scale, eps)
        return launch_forward(text, tables, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        # A radix sort of few ids is slow and occupies few multiprocessors, so it overlaps with the
        # kernel that makes the rows to be summed.
        tokens, copy, gate, smear_scale, projected, scale, rows, projection, keys = (
            ctx.saved_tensors
        )
        vocabulary, bigrams = len(copy), None if projected is None else len(projected)
        if keys is None:
            keys = lookup_keys(tokens, vocabulary, bigrams)
        lookups = Lookups.empty(keys, vocabulary + (bigrams or 0))
        with Side(tokens.device, SORT_LANE) as side:
            with side.launches():
                lookups.sort(keys, tokens.numel())
            text, tables = (
                Text.of(keys, tokens, ctx.bos_id),
                Tables.of(copy, projected, scale, gate),
            )
            grad, grad_scale = gradients[0].contiguous(), None
            if smear_scale is None:
                into_sum, grad_gate = launch_backward(grad, text, tables, ctx.eps)
            else:
                into_sum, grad_gate, grad_scale = launch_window_backward(
                    grad, text, tables, smear_scale, ctx.eps
                )
        sums = segment_sum(into_sum, lookups)
        grad_bigram = (None, None, None)
        if projected is not None:
            grad_bigram = bigram_gradients(sums[vocabulary:], rows, projection, scale)
        rest = (None,) * 4
        return None, sums[:vocabulary], grad_gate, grad_scale, *grad_bigram, *rest


def bigram_gradients(sums, bigram_table, projection, scale):
    """Return the gradients of bigram table, projection and scale.

    ``sums`` (rows, C) are the gradients of the projected rows. With P = bigram_table @
    projection.T, the scale's gradient <sums, P> equals <gradient of the unscaled projection,
    projection>, a sum of C x E numbers instead of rows x C.
    """
    projection_fp32 = projection.to(sums.dtype)
    with Side(sums.device, SORT_LANE) as side:
        # This product has few blocks, each as long as the table has rows.
        into_projection = side.product(sums.T, bigram_table)
        into_table = sums @ (projection_fp32 * scale)
    return (
        into_table,
        (into_projection * scale).to(projection.dtype),
        (into_projection * projection_fp32).sum(),
    )
