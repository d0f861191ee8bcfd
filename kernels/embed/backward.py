"""The embedding's backward kernel: from the smeared output's gradient to the summed embedding's.

Rows are (N, C) in the compute dtype. The tables' gradients are sums of the rows written here
(``kernels.embed.segment_sum``).
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.launch import Launch
from kernels.common.reduce import column_sums
from kernels.common.rows import (
    column_indices,
    load,
    row_indices,
    row_mean,
    row_tile,
    store,
    store_column_sums,
    zeros,
)
from kernels.embed.forward import Tables, Text, continues, keyed_rows, summed_embedding

# A warp has one row an iteration: 96 registers, 5 programs a multiprocessor. Compiled, not timed:
# 8 rows 168 registers, 3 programs; 8 rows with 8 warps 117; keys read an iteration ahead 120, 4.
LAUNCH = Launch(rows=4, warps=4, programs=5 * 132)


def launch_backward(grad: Tensor, text: Text, tables: Tables, eps: float) -> tuple[Tensor, Tensor]:
    """Return gradients of the summed embedding (N, C) and of the gate (C,).

    Args:
        grad: (B, T, C) contiguous.
        text: whose ids are keys, as ``lookup_keys`` returns them.
        tables: as in the forward pass.
        eps: of the RMSNorm.
    """
    vocabulary, width = tables.table.shape
    into_sum = torch.empty((text.count, width), dtype=grad.dtype, device=grad.device)
    programs = min(triton.cdiv(text.count, LAUNCH.rows), LAUNCH.programs)
    partial = torch.empty((1, programs, width), dtype=torch.float32, device=grad.device)
    embed_backward[(programs,)](
        text,
        tables,
        grad,
        into_sum,
        partial,
        eps,
        vocabulary,
        row_tile(width, LAUNCH.rows),
        **LAUNCH.options,
    )
    return into_sum, column_sums(partial)[0]


@triton.jit
def embed_backward(text, tables, grad, into_sum, partial_gate, eps, VOCABULARY: tl.constexpr, tile):
    """Compute the gradient of the summed embedding through SmearGate and RMSNorm.

        change   = grad[i + 1] - grad[i], with 0 for grad[i + 1] if SmearGate is closed
        d_normed = grad[i] + g change
        d_x      = r (d_normed - normed mean(d_normed normed))
        d_gate   = g (1 - g) sum over i of normed[i] change[i]

    With this form only row i is looked up again. ``text.ids`` are the keys that
    ``lookup_keys_kernel`` wrote; grad and into_sum (N, C), partial_gate (programs, C) fp32.

    At 98,304 x 512 in bf16 it reads 101 MB and writes 101 MB. Caches serve 101 MB of neighbours'
    rows and 201 MB of table rows. A row takes a warp about 400 instructions. Shared memory, 8 KB,
    takes the sums over warps.
    """
    columns = column_indices(tile)
    inside = columns < tile.C
    gate = tl.sigmoid(load(tables.smear_gate, columns, inside))
    sum_gate = zeros(tile)
    for first in range(tl.program_id(0) * tile.ROWS, text.count, tl.num_programs(0) * tile.ROWS):
        rows = row_indices(first, tile)
        positions, offsets = rows.to(tl.int32), rows * tile.C + columns
        mask = positions < text.count
        followed = continues(text, positions + 1, positions + 1 < text.count)
        into_normed = load(grad, offsets, mask & inside)
        change = load(grad, offsets + tile.C, followed & inside) - into_normed
        ids = tl.load(text.ids + positions, mask=mask, other=0).to(tl.int32)
        bigrams = ids
        if tables.projected is not None:
            bigrams = keyed_rows(text, positions, mask, VOCABULARY)
        x = summed_embedding(tables, ids, bigrams, mask, columns, tile)
        inverse_rms = tl.rsqrt(row_mean(x * x, tile) + eps)
        normed = x * inverse_rms
        sum_gate += normed * change
        into_normed += gate * change
        projection = row_mean(into_normed * normed, tile)
        into_x = (into_normed - normed * projection) * inverse_rms
        store(into_sum, offsets, into_x, mask & inside)
    store_column_sums(partial_gate, sum_gate * gate * (1 - gate), tile)
