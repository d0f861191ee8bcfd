"""The combination of two lanes in one pass each way.

    first'  = keep[0] first_weight (first + skip_weight skip) + mix[0, 0] attention + mix[1, 0] mlp
    second' = keep[1] second + mix[0, 1] attention + mix[1, 1] mlp

Rows (N, C) are read once, in the compute dtype; arithmetic is fp32. The backward pass reads the
inputs again, because the gradients of the factors need them. A persistent grid sums these over
rows, a partial sum a program, which ``column_sums`` then adds in a fixed order.
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
    row_count,
    row_indices,
    row_tile,
    store,
    store_column_sums,
    zeros,
)

# Compiled, not timed. Programs of the backward pass: as many as run at once with a skip, or with a
# skip gate.
LAUNCH = {
    "forward": Launch(rows=4, warps=4),  # 56 registers, with a skip 62
    "backward": Launch(rows=4, warps=4, programs=4 * 132),  # 64 registers, with a skip 128
    "backward with gate": Launch(rows=4, warps=4, programs=2 * 132),  # 198 registers
}
FACTORS = 6  # keep (2,), then mix (2, 2) row by row


class Inputs(NamedTuple):
    """Tensors (N, C) in the compute dtype, and factors in fp32."""

    first: Any
    second: Any
    attention: Any
    mlp: Any
    keep: Any
    """(2,)."""
    mix: Any
    """(2, 2)."""
    skip: Any
    """None: there is no skip."""
    skip_weight: Any
    """(C,), None without a skip."""
    first_weight: Any
    """(C,); None: one."""


class InputGradients(NamedTuple):
    """Gradients (N, C) of the inputs, to be written."""

    first: Any
    second: Any
    attention: Any
    mlp: Any
    skip: Any
    """None without a skip."""
    factors: Any
    """(programs, 6) fp32: each program's sums for keep and mix."""
    skip_weight: Any
    """(programs, C) fp32: each program's sums; None without a skip."""
    first_weight: Any
    """The same, None without that weight."""


def lanes(
    first: Tensor,
    second: Tensor,
    attention: Tensor,
    mlp: Tensor,
    keep: Tensor,
    mix: Tensor,
    *,
    skip: Tensor | None = None,
    skip_weight: Tensor | None = None,
    first_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute ``kernels.lanes.Lanes`` in one pass.

    The backward pass reads all inputs again, so they must not be modified.
    """
    if skip_weight is None:
        skip = None
    given = (first, second, attention, mlp, keep, mix, skip, skip_weight, first_weight)
    return LanesFunction.apply(*given)  # pyright: ignore[reportReturnType]


class LanesFunction(torch.autograd.Function):
    """Saves the inputs."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs = Inputs(*(None if t is None else t.contiguous() for t in given))
        ctx.save_for_backward(*inputs)
        return launch_forward(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first, second = (gradient.contiguous() for gradient in gradients)
        return launch_backward(Inputs(*ctx.saved_tensors), first, second)


def launch_forward(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return both lanes."""
    launch, rows = LAUNCH["forward"], row_count(inputs.first)
    results = torch.empty_like(inputs.first), torch.empty_like(inputs.second)
    tile = row_tile(inputs.first.size(-1), launch.rows)
    lanes_forward[(triton.cdiv(rows, launch.rows),)](inputs, *results, rows, tile, **launch.options)
    return results


def launch_backward(inputs: Inputs, first: Tensor, second: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``Inputs``, from those of both lanes."""
    gated, rows, width = inputs.first_weight is not None, row_count(first), first.size(-1)
    launch = LAUNCH["backward with gate" if gated else "backward"]
    programs = min(triton.cdiv(rows, launch.rows), launch.programs)
    has_skip = inputs.skip is not None
    factors = torch.empty((1, programs, FACTORS), dtype=torch.float32, device=first.device)
    vectors = [
        factors.new_empty((1, programs, width)) if given else None for given in (has_skip, gated)
    ]
    into = InputGradients(
        *(torch.empty_like(first) for _ in range(4)),
        torch.empty_like(first) if has_skip else None,
        factors,
        *vectors,
    )
    tile = row_tile(width, launch.rows)
    lanes_backward[(programs,)](inputs, first, second, into, rows, tile, **launch.options)
    sums = column_sums(factors)[0]
    by_vector = (None if vector is None else column_sums(vector)[0] for vector in vectors)
    return *into[:4], sums[:2], sums[2:].view(2, 2), into.skip, *by_vector


@triton.jit
def factor(pointer, index: tl.constexpr):
    """Load one factor as fp32."""
    return tl.load(pointer + index).to(tl.float32)


@triton.jit
def lanes_forward(inputs, first, second, rows_total, tile):
    """Compute both lanes (N, C) from ``Inputs``.

    It moves 6 tensors, 7 with a skip. At 98,304 x 512 in bf16 a tensor is 100.7 MB.
    """
    rows, columns = row_indices(tl.program_id(0) * tile.ROWS, tile), column_indices(tile)
    inside = columns < tile.C
    offsets, mask = rows * tile.C + columns, (rows < rows_total) & inside
    lane = load(inputs.first, offsets, mask)
    if inputs.skip is not None:
        lane += load(inputs.skip_weight, columns, inside) * load(inputs.skip, offsets, mask)
    if inputs.first_weight is not None:
        lane *= load(inputs.first_weight, columns, inside)
    attention, mlp = load(inputs.attention, offsets, mask), load(inputs.mlp, offsets, mask)
    lane = factor(inputs.keep, 0) * lane + factor(inputs.mix, 0) * attention
    store(first, offsets, lane + factor(inputs.mix, 2) * mlp, mask)
    lane = factor(inputs.keep, 1) * load(inputs.second, offsets, mask)
    lane += factor(inputs.mix, 1) * attention
    store(second, offsets, lane + factor(inputs.mix, 3) * mlp, mask)


@triton.jit
def lanes_backward(inputs, grad_first, grad_second, into, rows_total, tile):
    """Compute ``InputGradients`` from the lanes' gradients f and s (N, C) in one pass.

        into.first     = keep[0] first_weight f,  into.skip = skip_weight into.first
        into.second    = keep[1] s
        into.attention = mix[0, 0] f + mix[0, 1] s,  into.mlp = mix[1, 0] f + mix[1, 1] s

    and the program's sums over all elements of f first_weight (first + skip_weight skip), s second,
    f attention, s attention, f mlp and s mlp, and over rows of into.first skip and
    keep[0] f (first + skip_weight skip).

    It moves 10 tensors, 12 with a skip. Each row is summed at once, so that registers hold one
    number a row and factor.
    """
    columns = column_indices(tile)
    inside = columns < tile.C
    keep_first, keep_second = factor(inputs.keep, 0), factor(inputs.keep, 1)
    attention_first, attention_second = factor(inputs.mix, 0), factor(inputs.mix, 1)
    mlp_first, mlp_second = factor(inputs.mix, 2), factor(inputs.mix, 3)
    sum_first = row_zeros(tile)
    sum_second = row_zeros(tile)
    sum_attention_first = row_zeros(tile)
    sum_attention_second = row_zeros(tile)
    sum_mlp_first = row_zeros(tile)
    sum_mlp_second = row_zeros(tile)
    if inputs.skip is not None:
        by_skip = load(inputs.skip_weight, columns, inside)
        sum_skip = zeros(tile)
    if inputs.first_weight is not None:
        by_first = load(inputs.first_weight, columns, inside)
        sum_weight = zeros(tile)

    for begin in range(tl.program_id(0) * tile.ROWS, rows_total, tl.num_programs(0) * tile.ROWS):
        rows = row_indices(begin, tile)
        offsets, mask = rows * tile.C + columns, (rows < rows_total) & inside
        first, second = load(grad_first, offsets, mask), load(grad_second, offsets, mask)
        lane = load(inputs.first, offsets, mask)
        if inputs.skip is not None:
            skip = load(inputs.skip, offsets, mask)
            lane += by_skip * skip
        if inputs.first_weight is not None:
            sum_weight += keep_first * first * lane
            lane *= by_first
        sum_first += row_sum(first * lane)
        sum_second += row_sum(second * load(inputs.second, offsets, mask))
        branch = load(inputs.attention, offsets, mask)
        sum_attention_first += row_sum(first * branch)
        sum_attention_second += row_sum(second * branch)
        branch = load(inputs.mlp, offsets, mask)
        sum_mlp_first += row_sum(first * branch)
        sum_mlp_second += row_sum(second * branch)

        store(into.attention, offsets, attention_first * first + attention_second * second, mask)
        store(into.mlp, offsets, mlp_first * first + mlp_second * second, mask)
        store(into.second, offsets, keep_second * second, mask)
        first *= keep_first
        if inputs.first_weight is not None:
            first *= by_first
        store(into.first, offsets, first, mask)
        if inputs.skip is not None:
            sum_skip += first * skip
            store(into.skip, offsets, by_skip * first, mask)

    sums = into.factors + tl.program_id(0) * 6
    tl.store(sums, tl.sum(sum_first))
    tl.store(sums + 1, tl.sum(sum_second))
    tl.store(sums + 2, tl.sum(sum_attention_first))
    tl.store(sums + 3, tl.sum(sum_attention_second))
    tl.store(sums + 4, tl.sum(sum_mlp_first))
    tl.store(sums + 5, tl.sum(sum_mlp_second))
    if inputs.skip is not None:
        store_column_sums(into.skip_weight, sum_skip, tile)
    if inputs.first_weight is not None:
        store_column_sums(into.first_weight, sum_weight, tile)


@triton.jit
def row_zeros(tile):
    """Return a fp32 zero for each row (ROWS, 1, 1)."""
    return tl.zeros((tile.ROWS, 1, 1), dtype=tl.float32)


@triton.jit
def row_sum(values):
    """Return the sums of rows (ROWS, 1, 1). Chunks are summed first, which takes no shuffle."""
    return tl.sum(tl.sum(values, axis=1, keep_dims=True), axis=2, keep_dims=True)
