"""Logits of an attention gate from the first channels of a normed row.

    logits[t, h] = sum over j < W of normed[t, j] weight[h, j]

``mix_norm`` computes them while it has the row, so that only the logits travel: 1.6 MB at 98,304 x
8 in bf16. ``gate_backward`` is a kernel of its own; ``mix_norm_backward`` reads what it writes.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from typing import Any, NamedTuple, Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.launch import Launch
from kernels.common.reduce import column_sums
from kernels.common.rows import (
    load,
    load_row_values,
    row_count,
    row_indices,
    row_tile,
    store,
)
from kernels.norm.mix import Inputs, first_values

LAUNCH = Launch(rows=16, warps=4, programs=4 * 132)


class Gate(NamedTuple):
    """Weight and logits, or their gradients."""

    weight: Any
    """(HEADS, WINDOW) fp32."""
    logits: Any
    """(N, HEADS), to be written; in the backward pass their gradients."""
    HEADS: Any
    WINDOW: Any
    PADDED_HEADS: Any
    """A power of two, as PADDED_WINDOW."""
    PADDED_WINDOW: Any

    @classmethod
    def of(cls, weight: Tensor, stream: Tensor, gradient: Tensor | None = None) -> Self:
        """Return the gate of a stream (..., C), with new logits (..., H) or their gradient."""
        sizes = (*weight.shape, *map(triton.next_power_of_2, weight.shape))
        if gradient is None:
            gradient = stream.new_empty(*stream.shape[:-1], len(weight))
        return cls(weight, gradient, *map(tl.constexpr, sizes))


class GateGradients(NamedTuple):
    """What the logits' gradients come to."""

    normed: Any
    """(N, WIDTH) in the compute dtype: added to the gradient of normed's first channels."""
    weight: Any
    """(HEADS, WINDOW) fp32; in the kernel each program's sums."""
    WIDTH: Any
    """PADDED_WINDOW of the gate."""


@triton.jit
def places(gate):
    """Return the weight's elements and which of them exist, (1, HEADS, WINDOW) padded."""
    head = tl.arange(0, gate.PADDED_HEADS)[None, :, None]
    channel = tl.arange(0, gate.PADDED_WINDOW)[None, None, :]
    return head * gate.WINDOW + channel, (head < gate.HEADS) & (channel < gate.WINDOW)


@triton.jit
def store_gate(gate, normed, rows, rows_total):
    """Store the logits of normed first channels (ROWS, 1, WINDOW), which are zero beyond WINDOW."""
    place, exists = places(gate)
    logits = tl.sum(normed * load(gate.weight, place, exists), axis=2, keep_dims=True)
    head = tl.arange(0, gate.PADDED_HEADS)[None, :, None]
    mask = (rows < rows_total) & (head < gate.HEADS)
    tl.store(gate.logits + rows * gate.HEADS + head, logits.to(gate.logits.dtype.element_ty), mask)


def gate_gradients(inputs: Inputs, inverse_rms: Tensor, gate: Gate, scale: float) -> GateGradients:
    """Launch ``gate_backward``; return what the logits' gradients come to.

    Args:
        inputs: ``mix_norm``'s.
        inverse_rms: (N,) fp32.
        gate: with the logits' gradients.
        scale: of ``mix_norm``.
    """
    stream = inputs.stream
    rows, window = row_count(stream), gate.PADDED_WINDOW
    programs = min(triton.cdiv(rows, LAUNCH.rows), LAUNCH.programs)
    size = gate.weight.numel()
    partial = torch.empty((1, programs, size), dtype=torch.float32, device=stream.device)
    into = GateGradients(stream.new_empty(rows, window.value), partial, window)
    tile = row_tile(stream.size(-1), LAUNCH.rows)
    gate_backward[(programs,)](inputs, inverse_rms, gate, into, rows, scale, tile, **LAUNCH.options)
    return into._replace(weight=column_sums(partial)[0].view_as(gate.weight))


@triton.jit
def gate_backward(inputs, inverse_rms, gate, into, rows_total, scale, tile):
    """Compute ``GateGradients`` from the logits' gradients and the rows' first channels.

    It moves a sector of 32 bytes of each input's and result's row, and the logits: 11 MB at 98,304
    rows of 8 heads, 15 MB with a skip.
    Inside ``mix_norm_backward`` the weight would be in the rows' layout: 69 loads, 65 trips through
    shared memory and 20 barriers a row, which doubled its time.
    """
    place, exists = places(gate)
    weight = load(gate.weight, place, exists)
    head = tl.arange(0, gate.PADDED_HEADS)[None, :, None]
    channel = tl.arange(0, gate.PADDED_WINDOW)[None, None, :]
    sums = tl.zeros((tile.ROWS, gate.PADDED_HEADS, gate.PADDED_WINDOW), dtype=tl.float32)
    for first in range(tl.program_id(0) * tile.ROWS, rows_total, tl.num_programs(0) * tile.ROWS):
        rows = row_indices(first, tile)
        exists_row = rows < rows_total
        logits = load(gate.logits, rows * gate.HEADS + head, exists_row & (head < gate.HEADS))
        by_rms = load_row_values(inverse_rms, rows, rows_total)
        sums += logits * first_values(inputs, rows, rows_total, gate, tile) * (by_rms * scale)
        normed = tl.sum(logits * weight, axis=1, keep_dims=True)
        store(into.normed, rows * gate.PADDED_WINDOW + channel, normed, exists_row)
    pointer = into.weight + tl.program_id(0) * (gate.HEADS * gate.WINDOW)
    tl.store(pointer + place, tl.sum(sums, axis=0, keep_dims=True), mask=exists)
