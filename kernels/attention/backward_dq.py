"""Attention's backward pass in Triton, second part: gradients of queries and gain.

    P = 2^(query key^T - lse);   dscores = P * (dout v^T - delta);   dquery = dscores key
    dq = dquery through gain, rope and norm;   dgain = the sum of dquery . query over positions

    dout, dq (B, T, H, D), query, key, v in one dtype; delta, lse, rstd (B, G, padded T * GROUP),
    gain, dgain (H,) fp32. Other shapes as in ``saved.Saved``.

dq and dk with dv take seven products together. One kernel with an atomic sum of dq would take five,
but its bits would differ between runs, and it would need an fp32 copy of dq, 0.2 GB at 98,304
tokens. Both kernels hold their probabilities in registers, as an operand of the next product; with
five products they would pass through shared memory.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention import Kept
from kernels.attention.rope import (
    gain_limit,
    query_scale,
    rope_argument,
    rotate_back,
    unscaled,
)
from kernels.attention.saved import Saved
from kernels.attention.visible import (
    head_keys,
    kept_keys,
    kept_places,
    keys_argument,
    launch_for,
    load_rows,
    problem_argument,
    ring_argument,
    visible_keys,
)
from kernels.common.launch import Launch
from kernels.common.math import LN_2

# By head dim: the entry of the smallest that holds it.
LAUNCH = {
    64: Launch(rows=64, columns=64, warps=4, stages=2, registers=168),
    128: Launch(rows=128, columns=64, warps=8, stages=2),
}
# If a position sees few keys, small tiles hold fewer that it does not see.
NEAR_LAUNCH = LAUNCH | {64: Launch(rows=64, columns=32, warps=4, stages=3)}


class Inputs(NamedTuple):
    """Gradients of the softmax's output, queries, statistics, and elements between groups of these.

    All of them are by row.
    """

    dout: Any
    query: Any
    lse: Any
    delta: Any
    rstd: Any
    stats_stride: Any


class Outputs(NamedTuple):
    """dq, elements between its tokens, and dgain.

    That is (B, tiles, H), one row a program and window, or None if nobody wants it.
    """

    dq: Any
    stride: Any
    dgain: Any


class Rows(NamedTuple):
    """A tile of rows: query and dout (ROWS, D).

    Of each row lse, delta, its position and the first position that it sees.
    """

    query: Any
    dout: Any
    lse: Any
    delta: Any
    position: Any
    start: Any


def backward_dq(
    saved: Saved,
    dout: Tensor,
    delta: Tensor,
    dq: Tensor,
    kept: Kept | None = None,
    near: bool = False,
) -> Tensor | None:
    """Launch ``backward_dq_kernel``, which writes dq.

    Args:
        saved: the forward pass's operands and results.
        dout, delta: as ``backward_prepare`` writes them; dout is dy if it would be equal.
        dq: (B, T, H, D), tokens ``stride(1)`` apart.
        kept: as for the forward pass.
        near: whether positions see few keys.

    Returns:
        dgain (H,) fp32; None with ``kept``.
    """
    (B, G, rows, D), lse, gain = saved.query.shape, saved.lse, saved.gain
    launch = launch_for(NEAR_LAUNCH if near else LAUNCH, D)
    tiles = triton.cdiv(rows, launch.rows)
    dgain = None
    if kept is None:
        dgain = torch.empty((B, tiles, gain.numel()), dtype=torch.float32, device=dq.device)
    backward_dq_kernel[(tiles, B * G)](
        Inputs(dout, saved.query, lse, delta, saved.rstd, lse.size(2)),
        keys_argument(saved.key, saved.v),
        gain,
        rope_argument(saved.rope),
        problem_argument(saved),
        Outputs(dq, dq.stride(1), dgain),
        ring_argument(kept),
        D=D,
        ROWS=launch.rows,
        KEYS=launch.columns,
        **launch.options,
    )
    return None if dgain is None else dgain.sum((0, 1))


@triton.jit
def backward_dq_kernel(
    inputs,
    keys,
    gain,
    rope,
    problem,
    outputs,
    ring,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Compute dq of ROWS rows of one window and group, and their part of dgain.

    Tiles and their order are as in the forward kernel.
    """
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    batch, head = tl.program_id(1) // problem.G, tl.program_id(1) % problem.G
    first_token = batch.to(tl.int64) * problem.length
    lines = problem.G * problem.GROUP
    rows = problem.length * problem.GROUP
    row = tile * ROWS + tl.arange(0, ROWS)
    position, member = row // problem.GROUP, row % problem.GROUP
    valid = row < rows
    query_ptr = inputs.query + tl.program_id(1).to(tl.int64) * rows * D
    first_stat = tl.program_id(1).to(tl.int64) * inputs.stats_stride
    line = (first_token + position) * lines + head * problem.GROUP + member

    dout = load_rows(inputs.dout, line, D, (first_token + problem.length) * lines, True, D)
    delta = tl.load(inputs.delta + first_stat + row, mask=valid, other=0.0)
    query = load_rows(query_ptr, row, D, rows, True, D)
    lse = tl.load(inputs.lse + first_stat + row, mask=valid, other=0.0)
    keys = head_keys(keys, problem, D)
    start, begin, end, whole_begin, whole = visible_keys(
        problem, first_token, position, valid, tile, ROWS, KEYS
    )
    own = Rows(query, dout, lse, delta, position, start)
    acc = tl.zeros((ROWS, D), tl.float32)
    for first in range(begin, end - whole, KEYS):
        first += tl.where(first < whole_begin, 0, whole)
        acc = take_keys(own, acc, keys, first, problem.length, True, KEYS)
    for first in range(whole_begin, whole_begin + whole, KEYS):
        acc = take_keys(own, acc, keys, first, problem.length, False, KEYS)
    if ring is not None:
        place, kept = kept_places(ring, problem, first_token, tile, ROWS)
        for first in range(-kept, 0, KEYS):
            key, value, scores = kept_keys(ring, place, first, query, start, problem, KEYS)
            dweights = tl.dot(dout, tl.trans(value), input_precision="ieee")
            dscores = tl.exp2(scores - lse[:, None]) * (dweights - delta[:, None])
            acc = tl.dot(dscores.to(key.dtype), key, acc, input_precision="ieee")

    gain = tl.load(gain + head * problem.GROUP + member)
    query = load_rows(query_ptr, row, D, rows, True, D)
    rstd = tl.load(inputs.rstd + first_stat + row, mask=valid, other=0.0)
    finish_rows(acc, query, row, gain, rstd, rope, problem, outputs)


@triton.jit
def take_keys(rows, acc, keys, first, length, MASKED: tl.constexpr, KEYS: tl.constexpr):
    """Return acc with what one tile of keys and values adds to the gradient of a tile of rows."""
    D: tl.constexpr = rows.query.shape[1]
    seen = first + tl.arange(0, KEYS)
    key = load_rows(keys.key, seen, D, length, MASKED, D)
    value = load_rows(keys.v, seen, keys.v_stride, length, MASKED, D)
    scores = tl.dot(rows.query, tl.trans(key), input_precision="ieee")
    dweights = tl.dot(rows.dout, tl.trans(value), input_precision="ieee")
    weights = tl.exp2(scores - rows.lse[:, None])
    if MASKED:
        visible = seen[None, :] <= rows.position[:, None]
        visible &= seen[None, :] >= rows.start[:, None]
        weights = tl.where(visible, weights, 0.0)
    dscores = weights * (dweights - rows.delta[:, None])
    return tl.dot(dscores.to(key.dtype), key, acc, input_precision="ieee")


@triton.jit
def finish_rows(dq, query, row, gain, rstd, rope, problem, outputs):
    """Take the gradient of scaled queries (ROWS, D) through gain, norm and rope.

    Stores it and the gain's gradient, if that is wanted.
    """
    D: tl.constexpr = dq.shape[1]
    GROUP: tl.constexpr = problem.GROUP
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    batch, head = tl.program_id(1) // problem.G, tl.program_id(1) % problem.G
    position, member = row // GROUP, row % GROUP
    valid = row < problem.length * GROUP
    scale = query_scale(gain, D)
    rotated = unscaled(query, scale)
    projection = tl.sum(dq * rotated, 1)
    if outputs.dgain is not None:
        for each in tl.static_range(GROUP):
            counts = (member == each) & (tl.abs(gain) < gain_limit(D))
            partial = tl.sum(tl.where(counts, projection, 0.0), 0) * D**-0.5
            to = (batch * tl.num_programs(0) + tile) * (problem.G * GROUP) + head * GROUP + each
            tl.store(outputs.dgain + to, partial)
    dq = (dq - rotated * (projection / D)[:, None]) * (rstd * scale * LN_2)[:, None]
    dq = rotate_back(dq, position, valid, rope, D)
    token = batch.to(tl.int64) * problem.length + position
    line = token * outputs.stride + (head * GROUP + member) * D
    dq = dq.to(outputs.dq.dtype.element_ty)
    tl.store(outputs.dq + line[:, None] + tl.arange(0, D)[None, :], dq, mask=valid[:, None])
