"""All that lies between two matrix products of a block, in one pass forward and one backward.

Rows are read once, in the compute dtype; arithmetic is fp32. The backward pass recomputes what it
needs from tensors that are alive anyway, and sums the gradients of the vectors over rows inside a
persistent grid, each program its own share, which ``column_sums`` then adds in a fixed order.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.reduce import column_sums
from kernels.rows import (
    Launch,
    column_indices,
    load,
    row_count,
    row_indices,
    row_mean,
    row_tile,
    store,
    store_column_sums,
)

FORWARD = Launch(rows=8, warps=4)
BACKWARD = Launch(rows=4, warps=4, programs=4 * 132)


def norm(
    x: Tensor,
    *,
    scale: float,
    eps: float,
    branch: Tensor | None = None,
    branch_scale: Tensor | None = None,
    skip: Tensor | None = None,
    skip_weight: Tensor | None = None,
    x0: Tensor | None = None,
    mix: Tensor | None = None,
    keep_stream: bool = True,
) -> tuple[Any, Any, Tensor]:
    """Residual + branch, U-net skip, mix with the input embedding, RMSNorm.

        stream = x + branch_scale * branch                    (x without a branch)
        mixed  = mix[0] * (stream + skip_weight * skip) + mix[1] * x0
        normed = scale * mixed / sqrt(mean(mixed^2) + eps)

    Args:
        x: (B, T, C) residual stream.
        scale: factor on the normed output.
        eps: added to the mean square.
        branch: (B, T, C), with branch_scale (C,) fp32.
        skip: (B, T, C), with skip_weight (C,) fp32.
        x0: (B, T, C), with mix (2, C) fp32.
        keep_stream: False where nobody reads the stream, which is then not written: it comes back
            as None, and so does mixed where it is the stream.

    Returns:
        (stream, mixed, normed), each (B, T, C) in x's dtype. What is the same is the same tensor.
    """
    if branch_scale is None:
        branch = None
    if skip_weight is None:
        skip = None
    if mix is None:
        x0 = None
    stream, mixed, normed = Norm.apply(
        x, branch, branch_scale, skip, skip_weight, x0, mix, scale, eps, keep_stream
    )
    if branch is None:
        stream = x
    if skip is None and x0 is None:
        mixed = stream
    return stream, mixed, normed


class Norm(torch.autograd.Function):
    """Outputs that are one of the inputs, or one another, are None here; ``norm`` fills them in."""

    @staticmethod
    def forward(
        ctx: Any, x, branch, branch_scale, skip, skip_weight, x0, mix, scale, eps, keep_stream
    ):
        tensors = [None if t is None else t.contiguous() for t in (x, branch, skip, x0)]
        vectors = [None if t is None else t.contiguous() for t in (branch_scale, skip_weight, mix)]
        stream, mixed, normed = launch_forward(*tensors, *vectors, scale, eps, keep_stream)
        # With a branch alone the stream, which the next operation keeps too, is what was normed.
        x_is_mixed = skip is None and x0 is None and (branch is None or keep_stream)
        saved = stream if x_is_mixed and stream is not None else tensors[0]
        ctx.save_for_backward(saved, *tensors[1:], *vectors)
        ctx.set_materialize_grads(False)
        ctx.x_is_mixed, ctx.x_is_x0 = x_is_mixed, x0 is x
        ctx.scale, ctx.eps = scale, eps
        return stream, mixed, normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None):
        given = [None if gradient is None else gradient.contiguous() for gradient in gradients]
        return *launch_backward(ctx, *ctx.saved_tensors, *given), None, None, None


def launch_forward(x, branch, skip, x0, branch_scale, skip_weight, mix, scale, eps, keep_stream):
    """(stream, mixed, normed), None where an output is not written."""
    stream = torch.empty_like(x) if branch is not None and keep_stream else None
    mixed = torch.empty_like(x) if skip is not None or x0 is not None else None
    normed = torch.empty_like(x)
    rows = row_count(x)
    norm_forward[(triton.cdiv(rows, FORWARD.rows),)](
        x,
        branch,
        skip,
        x0,
        branch_scale,
        skip_weight,
        mix,
        stream,
        mixed,
        normed,
        rows,
        scale,
        eps,
        ROWS=FORWARD.rows,
        **row_tile(x.size(-1)),
        num_warps=FORWARD.warps,
    )
    return stream, mixed, normed


def launch_backward(
    ctx: Any,
    x,
    branch,
    skip,
    x0,
    branch_scale,
    skip_weight,
    mix,
    grad_stream,
    grad_mixed,
    grad_normed,
):
    """Gradients of x, branch, branch_scale, skip, skip_weight, x0 and mix."""
    rows, width = row_count(x), x.size(-1)
    programs = min(triton.cdiv(rows, BACKWARD.rows), BACKWARD.programs)
    # x0's gradient rides in x's where they are one tensor.
    grads = [torch.empty_like(x)] + [
        None if t is None else torch.empty_like(x)
        for t in (branch, skip, None if ctx.x_is_x0 else x0)
    ]
    shares = [branch, skip, x0, x0]  # of branch_scale, skip_weight, mix[0], mix[1]
    partial = torch.empty(
        (sum(t is not None for t in shares), programs, width), dtype=torch.float32, device=x.device
    )
    parts = iter(partial)
    norm_backward[(programs,)](
        x,
        branch,
        skip,
        x0,
        branch_scale,
        skip_weight,
        mix,
        grad_stream,
        grad_mixed,
        grad_normed,
        *grads,
        *(None if t is None else next(parts) for t in shares),
        rows,
        ctx.scale,
        ctx.eps,
        X_IS_MIXED=ctx.x_is_mixed,
        ROWS=BACKWARD.rows,
        **row_tile(width),
        num_warps=BACKWARD.warps,
    )
    sums = column_sums(partial)
    grad_branch_scale = None if branch is None else sums[0]
    grad_skip_weight = None if skip is None else sums[int(branch is not None)]
    grad_mix = None if x0 is None else sums[-2:]
    grad_x, grad_branch, grad_skip, grad_x0 = grads
    return grad_x, grad_branch, grad_branch_scale, grad_skip, grad_skip_weight, grad_x0, grad_mix


@triton.jit
def norm_forward(
    x,
    branch,
    skip,
    x0,
    branch_scale,
    skip_weight,
    mix,
    stream,
    mixed,
    normed,
    rows_total,
    scale,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One pass forward: ``norm``'s formula on (N, C) activations, vectors fp32, None where absent.

    At the real size, N = 98304 and C = 512 in bf16, a tensor is 100.7 MB, 23.5 us of an H200's
    4275 GB/s. Moved: 2 tensors alone (47 us), 4 with a branch (94), 6 with branch and mix where
    the stream is kept, or branch, skip and mix where it is not (141). A dozen FLOPs an element are
    0.6 GFLOP: nothing.

    A tile of 8 rows, 2 a warp, spreads the vectors' 8 KB over 24 to 48 KB of rows. Everything is
    loaded once into registers: 32 a thread alone, 121 with all parts, so 4 programs and 32 rows on
    each multiprocessor at least. Shared memory, 2 KB, turns the vectors' layout into the rows'.
    """
    rows, columns = row_indices(tl.program_id(0) * ROWS, ROWS), column_indices(CHUNKS, CHUNK)
    offsets, mask = rows * C + columns, (rows < rows_total) & (columns < C)
    value = load(x, offsets, mask)
    if branch is not None:
        value += load(branch_scale, columns, columns < C) * load(branch, offsets, mask)
        if stream is not None:
            store(stream, offsets, value, mask)
    if skip is not None:
        value += load(skip_weight, columns, columns < C) * load(skip, offsets, mask)
    if x0 is not None:
        value *= load(mix, columns, columns < C)
        value += load(mix + C, columns, columns < C) * load(x0, offsets, mask)
    if mixed is not None:
        store(mixed, offsets, value, mask)
    inverse_rms = tl.rsqrt(row_mean(value * value, C) + eps)
    store(normed, offsets, value * (inverse_rms * scale), mask)


@triton.jit
def norm_backward(
    x,
    branch,
    skip,
    x0,
    branch_scale,
    skip_weight,
    mix,
    grad_stream,
    grad_mixed,
    grad_normed,
    grad_x,
    grad_branch,
    grad_skip,
    grad_x0,
    part_branch_scale,
    part_skip_weight,
    part_mix_stream,
    part_mix_x0,
    rows_total,
    scale,
    eps,
    X_IS_MIXED: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One pass backward, with each program's share of the vectors' gradients.

        u        = x + branch_scale * branch + skip_weight * skip,  value = mix[0] u + mix[1] x0
        r        = 1 / sqrt(mean(value^2) + eps)
        d_value  = grad_mixed + scale r (grad_normed - value r^2 mean(grad_normed value))
        d_u      = mix[0] d_value,  d_x = d_u + grad_stream
        d_branch = branch_scale d_x,  d_skip = skip_weight d_u,  d_x0 = mix[1] d_value

    and the sums over rows of d_x branch, d_u skip, d_value u and d_value x0. Where X_IS_MIXED, x
    is the value already. Where grad_x0 is None though x0 is there, x0 is x: d_x takes d_x0 in.
    Incoming gradients that are None are zero and not read. Activations (N, C), sums (programs, C)
    fp32.

    At the real size, by 100.7 MB tensors: alone 3 (71 us), with a branch 6 (141), branch and mix 8
    (188), with the stream's gradient 9 (212), branch, skip and mix 10 (235). 1 MB for each vector's
    shares is written, and read once more. 30 FLOPs an element: 1.5 GFLOP.

    One row a warp and turn, so that the running sums, 16 registers for each of four vectors, are
    the lane's own for the whole loop and no barrier is in it; with the vectors themselves that is
    half of the 252 registers of the form with all parts, 2 programs a multiprocessor: 8 rows of 6
    KB in flight, 48 KB where latency asks for about 25. A row over two warps would halve registers
    and cost a barrier for each turn. Shared memory: 8 KB, for the sums over a program's warps.
    """
    columns = column_indices(CHUNKS, CHUNK)
    inside = columns < C
    if branch is not None:
        by_branch = load(branch_scale, columns, inside)
        sum_branch_scale = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
    if skip is not None:
        by_skip = load(skip_weight, columns, inside)
        sum_skip_weight = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
    if x0 is not None:
        by_stream, by_x0 = load(mix, columns, inside), load(mix + C, columns, inside)
        sum_mix_stream = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
        sum_mix_x0 = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)

    for first in range(tl.program_id(0) * ROWS, rows_total, tl.num_programs(0) * ROWS):
        rows = row_indices(first, ROWS)
        offsets, mask = rows * C + columns, (rows < rows_total) & inside
        # All loads first: the more bytes in flight, the fewer warps hide the memory's latency.
        value = load(x, offsets, mask)
        grad = tl.zeros((ROWS, CHUNKS, CHUNK), dtype=tl.float32)
        if grad_normed is not None:
            grad = load(grad_normed, offsets, mask)
        if grad_mixed is not None:
            grad_mixed_tile = load(grad_mixed, offsets, mask)
        if grad_stream is not None:
            grad_stream_tile = load(grad_stream, offsets, mask)
        if branch is not None:
            branch_tile = load(branch, offsets, mask)
        if skip is not None:
            skip_tile = load(skip, offsets, mask)
        if x0 is not None:
            x0_tile = load(x0, offsets, mask)

        if branch is not None and not X_IS_MIXED:
            value += by_branch * branch_tile
        if skip is not None:
            value += by_skip * skip_tile
        unmixed = value
        if x0 is not None:
            value = by_stream * value + by_x0 * x0_tile
        if grad_normed is not None:
            inverse_rms = tl.rsqrt(row_mean(value * value, C) + eps)
            along = row_mean(grad * value, C) * inverse_rms * inverse_rms
            grad = (grad - value * along) * (inverse_rms * scale)
        if grad_mixed is not None:
            grad += grad_mixed_tile

        if x0 is not None:
            sum_mix_stream += grad * unmixed
            sum_mix_x0 += grad * x0_tile
            into_x0 = by_x0 * grad
            grad = by_stream * grad
            if grad_x0 is not None:
                store(grad_x0, offsets, into_x0, mask)
        if skip is not None:
            sum_skip_weight += grad * skip_tile
            store(grad_skip, offsets, by_skip * grad, mask)
        if grad_stream is not None:
            grad += grad_stream_tile
        if branch is not None:
            sum_branch_scale += grad * branch_tile
            store(grad_branch, offsets, by_branch * grad, mask)
        if x0 is not None and grad_x0 is None:
            grad += into_x0
        store(grad_x, offsets, grad, mask)

    if branch is not None:
        store_column_sums(part_branch_scale, sum_branch_scale, C, CHUNKS, CHUNK)
    if skip is not None:
        store_column_sums(part_skip_weight, sum_skip_weight, C, CHUNKS, CHUNK)
    if x0 is not None:
        store_column_sums(part_mix_stream, sum_mix_stream, C, CHUNKS, CHUNK)
        store_column_sums(part_mix_x0, sum_mix_x0, C, CHUNKS, CHUNK)
