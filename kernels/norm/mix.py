"""The mix at a layer's entry, of whole rows or of the channels that a gate reads.

value = mix[0] (stream + skip_weight skip) + mix[1] x0
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from typing import Any, NamedTuple

import triton
import triton.language as tl

from kernels.common.rows import load


class Inputs(NamedTuple):
    """Tensors (N, C) in the compute dtype and vectors in fp32."""

    stream: Any
    skip: Any
    """None: there is no skip."""
    x0: Any
    skip_weight: Any
    """(C,), None without a skip."""
    mix: Any
    """(2, C)."""


@triton.jit
def mixed_values(inputs, offsets, mask, columns, inside, tile):
    """Return ``mix[0] (stream + skip_weight skip) + mix[1] x0`` of a tile, fp32."""
    value = load(inputs.stream, offsets, mask)
    if inputs.skip is not None:
        value += load(inputs.skip_weight, columns, inside) * load(inputs.skip, offsets, mask)
    value *= load(inputs.mix, columns, inside)
    return value + load(inputs.mix + tile.C, columns, inside) * load(inputs.x0, offsets, mask)


@triton.jit
def first_values(inputs, rows, rows_total, gate, tile):
    """Return the mix of a gate's first channels (ROWS, 1, WINDOW), zero beyond the last."""
    columns = tl.arange(0, gate.PADDED_WINDOW)[None, None, :]
    inside = columns < gate.WINDOW
    offsets, mask = rows * tile.C + columns, (rows < rows_total) & inside
    return mixed_values(inputs, offsets, mask, columns, inside, tile)
