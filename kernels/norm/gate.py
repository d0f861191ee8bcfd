"""Logits of an attention gate from the first channels of a normed row, inside ``mix_norm``.

    logits[t, h] = sum over j < W of normed[t, j] weight[h, j]

The rows are in registers or in the first cache, so that only the logits travel: 1.6 MB each way at
98,304 x 8 in bf16, where a product of its own would read 6 MB of normed again, and write and read
that of its gradient.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from typing import Any, NamedTuple, Self

import triton
import triton.language as tl
from torch import Tensor

from kernels.common.rows import load


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


@triton.jit
def gate_gradient(gate, rows, rows_total, columns):
    """Return what the logits' gradients add to normed's, a tile that is zero beyond WINDOW."""
    inside = columns < gate.WINDOW
    first = load(gate.logits, rows * gate.HEADS, rows < rows_total)
    total = first * load(gate.weight, columns, inside)
    for head in tl.static_range(1, gate.HEADS):
        by_logit = load(gate.logits, rows * gate.HEADS + head, rows < rows_total)
        total += by_logit * load(gate.weight, head * gate.WINDOW + columns, inside)
    return total


@triton.jit
def zero_gate(gate):
    """Return zeros (1, HEADS, WINDOW) padded, fp32."""
    return tl.zeros((1, gate.PADDED_HEADS, gate.PADDED_WINDOW), dtype=tl.float32)


@triton.jit
def sum_gate(gate, normed, rows, rows_total):
    """Return the weight's gradient of a tile of rows, (1, HEADS, WINDOW) padded."""
    head = tl.arange(0, gate.PADDED_HEADS)[None, :, None]
    mask = (rows < rows_total) & (head < gate.HEADS)
    by_logit = load(gate.logits, rows * gate.HEADS + head, mask)
    return tl.sum(by_logit * normed, axis=0, keep_dims=True)


@triton.jit
def store_sums(pointer, sums, gate):
    """Store this program's sums for the weight to ``pointer`` (programs, HEADS * WINDOW)."""
    place, exists = places(gate)
    pointer += tl.program_id(0) * (gate.HEADS * gate.WINDOW)
    tl.store(pointer + place, sums, mask=exists)
