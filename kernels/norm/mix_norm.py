"""A layer's entry: U-net skip, mix with the input and RMSNorm, in one pass each way.

    value = mix[0] (stream + skip_weight skip) + mix[1] x0
    mixed, normed = value, scale value / sqrt(mean(value^2) + eps)
    gate = normed[:W] gate_weight^T

Rows (N, C) are read once, in the compute dtype; arithmetic is fp32. The backward pass recomputes
``value`` from its inputs, because other operations save them too. It adds the gradients that later
layers return for the stream and for x0. It sums the vectors' gradients over rows in a persistent
grid, a partial sum a program, which ``column_sums`` then adds in a fixed order.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.launch import Launch
from kernels.common.reduce import column_sums
from kernels.common.rows import (
    column_indices,
    load,
    load_row_values,
    row_count,
    row_indices,
    row_mean,
    row_tile,
    store,
    store_column_sums,
    store_row_values,
    zeros,
)
from kernels.norm.gate import Gate, gate_gradients, store_gate
from kernels.norm.mix import Inputs, first_values, mixed_values
from kernels.norm.norm import normed_gradient

# Programs: as many as run at once, 3 a multiprocessor, 2 with a skip. More would be a second and
# partial wave. Registers are of the entry and of the entry with skip.
LAUNCH = {
    "forward": Launch(rows=8, warps=4),  # 71, 94 registers; 4 rows: 56, 61
    # Compiled, not timed: 8 warps 106, 124, with a row over two warps and a barrier an iteration;
    # 8 rows spill; num_stages=2 on the loop 167, 212 and 10 barriers.
    "backward": Launch(rows=4, warps=4, programs=3 * 132),  # 166 registers
    "backward with skip": Launch(rows=4, warps=4, programs=2 * 132),  # 215 registers
}


class Gradients(NamedTuple):
    """Gradients (N, C) of ``mix_norm``'s results; None is zero, and not read."""

    mixed: Any
    normed: Any
    stream: Any
    x0: Any


class InputGradients(NamedTuple):
    """Gradients (N, C) of the inputs, to be written."""

    stream: Any
    skip: Any
    """None without a skip."""
    x0: Any
    """None: x0 is the stream, whose gradient includes x0's."""
    partial: Any
    """(2 or 3, programs, C) fp32: each program's sums for mix[0], mix[1] and skip_weight."""
    vector_size: Any
    """Elements from one vector's sums to the next's."""


def mix_norm(
    stream: Tensor,
    x0: Tensor,
    mix: Tensor,
    *,
    scale: float,
    eps: float,
    skip: Tensor | None = None,
    skip_weight: Tensor | None = None,
    gate_weight: Tensor | None = None,
    normed_only: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Compute ``kernels.norm.MixNorm`` in one pass.

    The backward pass reads the stream again, so add to mixed, not to the stream.
    """
    if skip_weight is None:
        skip = None
    given = (stream, x0, mix, skip, skip_weight, gate_weight)
    return MixNorm.apply(*given, scale, eps, normed_only)  # pyright: ignore[reportReturnType]


class MixNorm(torch.autograd.Function):
    """Save the inputs and 1/rms of each row (N,) fp32. Other operations save the inputs too."""

    @staticmethod
    def forward(
        ctx: Any, stream, x0, mix, skip, skip_weight, gate_weight, scale, eps, normed_only
    ) -> tuple[Tensor | None, ...]:
        given = (stream, skip, x0, skip_weight, mix)
        inputs = Inputs(*(None if t is None else t.contiguous() for t in given))
        gate = None if gate_weight is None else Gate.of(gate_weight.contiguous(), stream)
        mixed = None if normed_only else torch.empty_like(inputs.stream)
        normed, inverse_rms = launch_forward(inputs, mixed, gate, scale, eps)
        ctx.save_for_backward(*inputs, inverse_rms, gate_weight)
        ctx.set_materialize_grads(False)
        ctx.one_input, ctx.scale = x0 is stream, scale
        return mixed, normed, stream, x0, None if gate is None else gate.logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [None if gradient is None else gradient.contiguous() for gradient in gradients]
        *inputs, inverse_rms, gate_weight = ctx.saved_tensors
        inputs, gate = Inputs(*inputs), None
        if gate_weight is not None and given[4] is not None:
            gate = Gate.of(gate_weight.contiguous(), inputs.stream, given[4])
            given[1] = torch.zeros_like(inputs.stream) if given[1] is None else given[1]
        return (
            *launch_backward(ctx, inputs, inverse_rms, Gradients(*given[:4]), gate),
            *(None,) * 3,
        )


def launch_forward(
    inputs: Inputs, mixed: Tensor | None, gate: Gate | None, scale: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Return normed as the stream, and 1/rms (N,) fp32; mixed and the gate's logits are written."""
    stream, launch = inputs.stream, LAUNCH["forward"]
    rows = row_count(stream)
    normed = torch.empty_like(stream)
    inverse_rms = torch.empty(rows, dtype=torch.float32, device=stream.device)
    mix_norm_forward[(triton.cdiv(rows, launch.rows),)](
        inputs,
        mixed,
        normed,
        inverse_rms,
        gate,
        rows,
        scale,
        eps,
        row_tile(stream.size(-1), launch.rows),
        **launch.options,
    )
    return normed, inverse_rms


def launch_backward(
    ctx: Any, inputs: Inputs, inverse_rms: Tensor, gradients: Gradients, gate: Gate | None
) -> tuple[Tensor | None, ...]:
    """Return gradients of stream, x0, mix, skip, skip_weight and gate_weight."""
    stream, has_skip = inputs.stream, inputs.skip is not None
    rows, width = row_count(stream), stream.size(-1)
    launch = LAUNCH["backward with skip" if has_skip else "backward"]
    programs = min(triton.cdiv(rows, launch.rows), launch.programs)
    vectors = 3 if has_skip else 2
    into = InputGradients(
        torch.empty_like(stream),
        torch.empty_like(stream) if has_skip else None,
        None if ctx.one_input else torch.empty_like(stream),
        torch.empty((vectors, programs, width), dtype=torch.float32, device=stream.device),
        programs * width,
    )
    by_gate = None if gate is None else gate_gradients(inputs, inverse_rms, gate, ctx.scale)
    mix_norm_backward[(programs,)](
        inputs,
        inverse_rms,
        gradients,
        into,
        by_gate,
        rows,
        ctx.scale,
        row_tile(width, launch.rows),
        **launch.options,
    )
    sums = column_sums(into.partial)
    vectors = sums[:2], into.skip, sums[2] if has_skip else None
    return into.stream, into.x0, *vectors, None if by_gate is None else by_gate.weight


@triton.jit
def mix_norm_forward(inputs, mixed, normed, inverse_rms, gate, rows_total, scale, eps, tile):
    """Compute mixed and normed (N, C), inverse_rms (N,) fp32 and ``gate`` from ``Inputs``.

    It moves 4 tensors, 5 with a skip, 3 if x0 is the stream; one less if ``mixed`` is None. At
    98,304 x 512 in bf16 a tensor is 100.7 MB. A tile of 8 rows, 2 a warp, loads the vectors once
    for 8 rows. Shared memory, 2 KB, converts the vectors' layout to the rows'.
    """
    rows, columns = row_indices(tl.program_id(0) * tile.ROWS, tile), column_indices(tile)
    inside = columns < tile.C
    offsets, mask = rows * tile.C + columns, (rows < rows_total) & inside
    value = mixed_values(inputs, offsets, mask, columns, inside, tile)
    if mixed is not None:
        store(mixed, offsets, value, mask)
    by_rms = tl.rsqrt(row_mean(value * value, tile) + eps)
    store(normed, offsets, value * (by_rms * scale), mask)
    store_row_values(inverse_rms, rows, by_rms, rows_total)
    if gate is not None:
        value = first_values(inputs, rows, rows_total, gate, tile)
        store_gate(gate, value * (by_rms * scale), rows, rows_total)


@triton.jit
def mix_norm_backward(inputs, inverse_rms, grads, into, by_gate, rows_total, scale, tile):
    """Compute ``InputGradients`` from ``Gradients`` in one pass.

        u       = stream + skip_weight * skip,  value = mix[0] u + mix[1] x0,  r = inverse_rms
        d_value = grads.mixed + scale r (grads.normed - value r^2 mean(grads.normed value))
        d_u     = mix[0] d_value

        into.stream = d_u + grads.stream,  into.skip = skip_weight d_u
        into.x0     = mix[1] d_value + grads.x0

    and the program's sums over rows of d_value u, d_value x0 and d_u skip to ``into.partial``. With
    a gate, ``by_gate.normed`` is added to grads.normed's first channels.

    It moves 7 tensors (N, C); 8 with the stream's gradient, 9 with a skip too, 5 if x0 is the
    stream. At 98,304 x 512 in bf16 a tensor is 100.7 MB, and each vector's partial sums are 1.6 MB.

    A warp has one row an iteration. The running sums, 16 registers for each vector, then stay in
    the lane for the whole loop, without a barrier. 166 registers leave 12 warps a multiprocessor
    and 60 KB of rows in flight; latency needs about 25 KB. With a skip: 215 registers, 8 warps,
    48 KB. An iteration is 360 instructions a row, a quarter of its time at full bandwidth. Shared
    memory, 8 KB, takes the sums over a program's warps.
    """
    columns = column_indices(tile)
    inside = columns < tile.C
    by_stream, by_x0 = load(inputs.mix, columns, inside), load(inputs.mix + tile.C, columns, inside)
    sum_stream = zeros(tile)
    sum_x0 = zeros(tile)
    if inputs.skip is not None:
        by_skip = load(inputs.skip_weight, columns, inside)
        sum_skip = zeros(tile)

    for first in range(tl.program_id(0) * tile.ROWS, rows_total, tl.num_programs(0) * tile.ROWS):
        rows = row_indices(first, tile)
        offsets, mask = rows * tile.C + columns, (rows < rows_total) & inside
        # All loads first: the more bytes in flight, the fewer warps hide the memory's latency.
        mixed_in = load(inputs.stream, offsets, mask)
        x0_tile = load(inputs.x0, offsets, mask)
        grad = zeros(tile)
        if grads.normed is not None:
            grad = load(grads.normed, offsets, mask)
        if by_gate is not None:
            near = (rows < rows_total) & (columns < by_gate.WIDTH)
            by_gate_tile = load(by_gate.normed, rows * by_gate.WIDTH + columns, near)
        if grads.mixed is not None:
            grad_mixed_tile = load(grads.mixed, offsets, mask)
        if inputs.skip is not None:
            skip_tile = load(inputs.skip, offsets, mask)
        if grads.stream is not None:
            grad_stream_tile = load(grads.stream, offsets, mask)
        if grads.x0 is not None:
            grad_x0_tile = load(grads.x0, offsets, mask)

        if inputs.skip is not None:
            mixed_in += by_skip * skip_tile
        if grads.normed is not None:
            value = by_stream * mixed_in + by_x0 * x0_tile
            by_rms = load_row_values(inverse_rms, rows, rows_total)
            if by_gate is not None:
                grad += by_gate_tile
            projection = row_mean(grad * value, tile) * by_rms * by_rms
            grad = normed_gradient(grad, value, projection, by_rms * scale)
        if grads.mixed is not None:
            grad += grad_mixed_tile
        sum_stream += grad * mixed_in
        sum_x0 += grad * x0_tile

        to_x0 = by_x0 * grad
        if grads.x0 is not None:
            to_x0 += grad_x0_tile
        if into.x0 is not None:
            store(into.x0, offsets, to_x0, mask)
        grad = by_stream * grad
        if inputs.skip is not None:
            sum_skip += grad * skip_tile
            store(into.skip, offsets, by_skip * grad, mask)
        if grads.stream is not None:
            grad += grad_stream_tile
        if into.x0 is None:
            grad += to_x0
        store(into.stream, offsets, grad, mask)

    store_column_sums(into.partial, sum_stream, tile)
    store_column_sums(into.partial + into.vector_size, sum_x0, tile)
    if inputs.skip is not None:
        store_column_sums(into.partial + 2 * into.vector_size, sum_skip, tile)
