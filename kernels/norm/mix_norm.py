"""A layer's entry, U-net skip, mix with the input and RMSNorm, in one pass each way.

Rows are read once, in the compute dtype; arithmetic is fp32. The backward pass recomputes what it
needs from tensors that are alive anyway, adds the gradients that come for the stream and for x0
from later layers, and sums the vectors' gradients over rows inside a persistent grid, each program
its own share, which ``column_sums`` then adds in a fixed order.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.reduce import column_sums
from kernels.common.rows import (
    Launch,
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
)

FORWARD = Launch(rows=8, warps=4)
# As many as fit at once: 3 programs a multiprocessor, 2 in the form with a skip. More make a
# second, partial wave: 93 % of copy speed became 45 % at 4 a multiprocessor.
BACKWARD = Launch(rows=4, warps=4, programs=3 * 132)
BACKWARD_WITH_SKIP = Launch(rows=4, warps=4, programs=2 * 132)


def mix_norm(
    stream: Tensor,
    x0: Tensor,
    mix: Tensor,
    *,
    scale: float,
    eps: float,
    skip: Tensor | None = None,
    skip_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``kernels.norm.MixNorm`` in one pass.

    The backward pass reads the stream again, so add to mixed, not to the stream.
    """
    if skip_weight is None:
        skip = None
    return MixNorm.apply(stream, x0, mix, skip, skip_weight, scale, eps)  # pyright: ignore[reportReturnType]


class MixNorm(torch.autograd.Function):
    """Saves the inputs, which others keep too, and 1/rms of each row (N,) fp32."""

    @staticmethod
    def forward(ctx: Any, stream, x0, mix, skip, skip_weight, scale, eps) -> tuple[Tensor, ...]:
        tensors = [None if t is None else t.contiguous() for t in (stream, skip, x0)]
        vectors = [None if t is None else t.contiguous() for t in (skip_weight, mix)]
        mixed, normed, inverse_rms = launch_forward(*tensors, *vectors, scale, eps)
        ctx.save_for_backward(*tensors, *vectors, inverse_rms)
        ctx.set_materialize_grads(False)
        ctx.one_input, ctx.scale = x0 is stream, scale
        return mixed, normed, stream, x0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [None if gradient is None else gradient.contiguous() for gradient in gradients]
        return *launch_backward(ctx, *ctx.saved_tensors, *given), None, None


def launch_forward(stream, skip, x0, skip_weight, mix, scale, eps):
    """mixed and normed as stream, 1/rms (N,) fp32."""
    rows = row_count(stream)
    mixed, normed = torch.empty_like(stream), torch.empty_like(stream)
    inverse_rms = torch.empty(rows, dtype=torch.float32, device=stream.device)
    mix_norm_forward[(triton.cdiv(rows, FORWARD.rows),)](
        stream,
        skip,
        x0,
        skip_weight,
        mix,
        mixed,
        normed,
        inverse_rms,
        rows,
        scale,
        eps,
        ROWS=FORWARD.rows,
        **row_tile(stream.size(-1)),
        num_warps=FORWARD.warps,
    )
    return mixed, normed, inverse_rms


def launch_backward(ctx: Any, stream, skip, x0, skip_weight, mix, inverse_rms, *gradients):
    """Gradients of stream, x0, mix, skip and skip_weight."""
    rows, width = row_count(stream), stream.size(-1)
    launch = BACKWARD if skip is None else BACKWARD_WITH_SKIP
    programs = min(triton.cdiv(rows, launch.rows), launch.programs)
    into_stream = torch.empty_like(stream)
    # x0's gradient rides in the stream's where they are one tensor.
    into_x0 = None if ctx.one_input else torch.empty_like(stream)
    into_skip = None if skip is None else torch.empty_like(stream)
    vectors = 2 if skip is None else 3  # mix[0], mix[1], skip_weight
    partial = torch.empty((vectors, programs, width), dtype=torch.float32, device=stream.device)
    mix_norm_backward[(programs,)](
        stream,
        skip,
        x0,
        skip_weight,
        mix,
        inverse_rms,
        *gradients,
        into_stream,
        into_skip,
        into_x0,
        partial,
        programs * width,
        rows,
        ctx.scale,
        ROWS=launch.rows,
        **row_tile(width),
        num_warps=launch.warps,
    )
    sums = column_sums(partial)
    return into_stream, into_x0, sums[:2], into_skip, None if skip is None else sums[2]


@triton.jit
def mix_norm_forward(
    stream,
    skip,
    x0,
    skip_weight,
    mix,
    mixed,
    normed,
    inverse_rms,
    rows_total,
    scale,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """``mix_norm``'s formula on (N, C) activations, vectors fp32, skip and its weight None or not.

    At the real size, N = 98304 and C = 512 in bf16, a tensor is 100.7 MB, 23.5 us of an H200's
    4275 GB/s. Moved: 4 tensors (94 us), 5 with a skip (118), 3 where x0 is the stream (71). A dozen
    FLOPs an element are 0.6 GFLOP: nothing.

    A tile of 8 rows, 2 a warp, spreads the vectors' 4 to 6 KB over 16 to 24 KB of rows. Everything
    is loaded once into registers, 71 a thread, 94 with a skip. Shared memory, 2 KB, turns the
    vectors' layout into the rows'.
    """
    rows, columns = row_indices(tl.program_id(0) * ROWS, ROWS), column_indices(CHUNKS, CHUNK)
    inside = columns < C
    offsets, mask = rows * C + columns, (rows < rows_total) & inside
    value = load(stream, offsets, mask)
    if skip is not None:
        value += load(skip_weight, columns, inside) * load(skip, offsets, mask)
    value *= load(mix, columns, inside)
    value += load(mix + C, columns, inside) * load(x0, offsets, mask)
    store(mixed, offsets, value, mask)
    by_rms = tl.rsqrt(row_mean(value * value, C) + eps)
    store(normed, offsets, value * (by_rms * scale), mask)
    store_row_values(inverse_rms, rows, by_rms, rows_total)


@triton.jit
def mix_norm_backward(
    stream,
    skip,
    x0,
    skip_weight,
    mix,
    inverse_rms,
    grad_mixed,
    grad_normed,
    grad_stream,
    grad_x0,
    into_stream,
    into_skip,
    into_x0,
    partial,
    vector_size,
    rows_total,
    scale,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One pass backward, with each program's share of the vectors' gradients.

        u       = stream + skip_weight * skip,  value = mix[0] u + mix[1] x0,  r = inverse_rms
        d_value = grad_mixed + scale r (grad_normed - value r^2 mean(grad_normed value))
        d_u     = mix[0] d_value

        into_stream = d_u + grad_stream,  into_skip = skip_weight d_u
        into_x0     = mix[1] d_value + grad_x0

    and the sums over rows of d_value u, d_value x0 and d_u skip, to partial (2 or 3, programs, C)
    fp32, vector_size elements apart. Where into_x0 is None, x0 is the stream, whose gradient takes
    x0's in. Incoming gradients that are None are zero and not read. Activations are (N, C).

    At the real size, by 100.7 MB tensors of 23.5 us: 5 in (stream, x0, grad_mixed, grad_normed,
    grad_x0) and 2 out, 165 us; with the stream's gradient 8 (188), with a skip 9 (212); where x0 is
    the stream 5 (118). 1.6 MB for each vector's shares is written, and read once more. 25 FLOPs an
    element: 1.3 GFLOP.

    One row a warp and turn, so that the running sums, 16 registers for each vector, are the lane's
    own for the whole loop and no barrier is in it: 166 registers, 12 warps a multiprocessor, with
    60 KB of rows in flight where latency asks for about 25; with a skip 215, 8 warps and 48 KB. A
    turn is 360 instructions a row, a quarter of its time at full bandwidth. Shared memory: 8 KB,
    for the sums over a program's warps.
    """
    columns = column_indices(CHUNKS, CHUNK)
    inside = columns < C
    by_stream, by_x0 = load(mix, columns, inside), load(mix + C, columns, inside)
    sum_stream = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
    sum_x0 = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
    if skip is not None:
        by_skip = load(skip_weight, columns, inside)
        sum_skip = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)

    for first in range(tl.program_id(0) * ROWS, rows_total, tl.num_programs(0) * ROWS):
        rows = row_indices(first, ROWS)
        offsets, mask = rows * C + columns, (rows < rows_total) & inside
        # All loads first: the more bytes in flight, the fewer warps hide the memory's latency.
        mixed_in = load(stream, offsets, mask)
        x0_tile = load(x0, offsets, mask)
        grad = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
        if grad_normed is not None:
            grad = load(grad_normed, offsets, mask)
        if grad_mixed is not None:
            grad_mixed_tile = load(grad_mixed, offsets, mask)
        if skip is not None:
            skip_tile = load(skip, offsets, mask)
        if grad_stream is not None:
            grad_stream_tile = load(grad_stream, offsets, mask)
        if grad_x0 is not None:
            grad_x0_tile = load(grad_x0, offsets, mask)

        if skip is not None:
            mixed_in += by_skip * skip_tile
        if grad_normed is not None:
            value = by_stream * mixed_in + by_x0 * x0_tile
            by_rms = load_row_values(inverse_rms, rows, rows_total)
            along = row_mean(grad * value, C) * by_rms * by_rms
            grad = (grad - value * along) * (by_rms * scale)
        if grad_mixed is not None:
            grad += grad_mixed_tile
        sum_stream += grad * mixed_in
        sum_x0 += grad * x0_tile

        to_x0 = by_x0 * grad
        if grad_x0 is not None:
            to_x0 += grad_x0_tile
        if into_x0 is not None:
            store(into_x0, offsets, to_x0, mask)
        grad = by_stream * grad
        if skip is not None:
            sum_skip += grad * skip_tile
            store(into_skip, offsets, by_skip * grad, mask)
        if grad_stream is not None:
            grad += grad_stream_tile
        if into_x0 is None:
            grad += to_x0
        store(into_stream, offsets, grad, mask)

    store_column_sums(partial, sum_stream, C, CHUNKS, CHUNK)
    store_column_sums(partial + vector_size, sum_x0, C, CHUNKS, CHUNK)
    if skip is not None:
        store_column_sums(partial + 2 * vector_size, sum_skip, C, CHUNKS, CHUNK)
