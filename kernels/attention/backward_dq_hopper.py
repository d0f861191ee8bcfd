"""Attention's backward pass on Hopper, second part: gradients of queries and gain.

    P = 2^(query key^T - lse);   dscores = P * (dout v^T - delta);   dquery = dscores key
    dq = dquery through gain, rope and norm;   dgain = the sum of dquery . query over positions

    dout (B, T, H, 64), query, key, v and the result dq (B, T, H, 64) in 16 bits; delta, lse, rstd
    (B, G, padded T * GROUP), gain, dgain (H,) fp32. Other shapes as in ``saved.Saved``.

An item's queries and gradients arrive while the item before is computed. At 98,304 tokens, T =
2048, 8/4 heads of 64: reads dout, query, key, v (302 MB), writes dq (101 MB); 309 GFLOP and 805 M
exponentials.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.attention.forward_hopper import Keys, load_items
from kernels.attention.rope import gain_limit, rope_argument
from kernels.attention.rope_hopper import angles, query_scale, rotate
from kernels.attention.saved import Saved
from kernels.attention.schedule_hopper import (
    ITEM_ROWS,
    NONE,
    make_item,
    schedule,
    take_item,
    unmasked_keys,
    visible_keys,
)
from kernels.common.hopper import (
    CONSUMERS,
    REGISTERS,
    WARPGROUP_ROWS,
    heads_descriptor,
    left_layout,
    make_barriers,
    product_layout,
    release,
    release_read,
    rows_descriptor,
    skip,
    store_layout,
    wait_full,
    window_descriptor,
)
from kernels.common.launch import Launch
from kernels.common.math import LN_2

# Rows of an item, keys of a tile of the ring, its stages: 200 KB of shared memory. Microseconds of
# the backward pass, 4 stages: H100, 98,304 tokens, 8/4 heads, febceab (variants-h100.md).
LAUNCH = Launch(rows=ITEM_ROWS, columns=64, stages=8)  # 1348.8; with XSA 1425.3
# Warpgroups that alternate (ping-pong): 1366.5; with XSA 1440.7
# Keys of one score product: half a tile's, whose other products overlap with these exponentials.
PART = gl.constexpr(32)  # 64: 1368.7; with XSA 1447.9


class Inputs(NamedTuple):
    """TMA descriptors."""

    dout: Any
    query: Any
    key: Any
    v: Any


class Queries(NamedTuple):
    """An item, its queries and gradients, 64 rows for each consumer: a ring of one stage."""

    item: Any
    query: Any
    dout: Any
    full: Any
    empty: Any


class Statistics(NamedTuple):
    """Numbers of rows: lse, delta and 1/rms, with ``stride`` elements between groups."""

    lse: Any
    delta: Any
    rstd: Any
    stride: Any


class Outputs(NamedTuple):
    """dq, elements between its tokens, and dgain (items * 3, GROUP), one row a consumer."""

    dq: Any
    stride: Any
    dgain: Any


class Rows(NamedTuple):
    """64 rows in registers: query and dout (64, D).

    Of each row lse, delta, its position and the first position that it sees.
    """

    query: Any
    dout: Any
    lse: Any
    delta: Any
    position: Any
    start: Any


def backward_dq(saved: Saved, dout: Tensor, delta: Tensor, dq: Tensor) -> Tensor:
    """Launch ``backward_dq_kernel``. See ``kernels.attention.backward_dq.backward_dq``."""
    query, key, v, lse = saved.query, saved.key, saved.v, saved.lse
    problem, grid = schedule(query, key, saved.documents, query.size(2))
    parts = (*key.shape[:2], problem.tiles * CONSUMERS.value, saved.group)
    dgain = torch.empty(parts, dtype=torch.float32, device=query.device)
    backward_dq_kernel[grid](
        window_descriptor(dout, WARPGROUP_ROWS, saved.group),
        rows_descriptor(query, WARPGROUP_ROWS),
        rows_descriptor(key, LAUNCH.columns),
        heads_descriptor(v, LAUNCH.columns),
        problem,
        Statistics(lse, delta, saved.rstd, lse.size(2)),
        saved.gain,
        rope_argument(saved.rope),
        Outputs(dq, dq.stride(1), dgain),
        STAGES=LAUNCH.stages,
        num_warps=LAUNCH.warps,
    )
    return dgain.sum((0, 2)).flatten()


@gluon.jit
def backward_dq_kernel(
    dout_desc,
    query_desc,
    key_desc,
    v_desc,
    problem,
    statistics,
    gain,
    rope,
    outputs,
    STAGES: gl.constexpr,
):
    """Run one block: three warpgroups differentiate 64 rows each, one warp loads."""
    dtype: gl.constexpr = query_desc.dtype
    D: gl.constexpr = key_desc.block_type.shape[1]
    KEYS: gl.constexpr = key_desc.block_type.shape[0]
    query = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], query_desc.layout)
    dout = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], query_desc.layout)
    key = gl.allocate_shared_memory(dtype, [STAGES, KEYS, D], key_desc.layout)
    value = gl.allocate_shared_memory(dtype, [STAGES, KEYS, D], v_desc.layout)
    barriers = make_barriers(1, 2), make_barriers(1, CONSUMERS)
    queries = Queries(make_item(), query, dout, barriers[0], barriers[1])
    keys = Keys(key, value, make_barriers(STAGES, 1), make_barriers(STAGES, CONSUMERS))
    fence_async_shared()
    inputs = Inputs(dout_desc, query_desc, key_desc, v_desc)
    gl.warp_specialize(
        [
            (
                differentiate_items,
                (0, problem, queries, keys, statistics, gain, rope, outputs),
            ),
            (
                differentiate_items,
                (1, problem, queries, keys, statistics, gain, rope, outputs),
            ),
            (
                differentiate_items,
                (2, problem, queries, keys, statistics, gain, rope, outputs),
            ),
            (load_tiles, (problem, queries, keys, inputs)),
        ],
        [4, 4, 1],
        REGISTERS,
    )


@gluon.jit
def load_tiles(problem, queries, keys, inputs):
    """Load queries, gradients, keys and values: one warp."""
    load_items(problem, queries, keys, inputs, load_rows)


@gluon.jit
def load_rows(problem, queries, inputs, head_index, first_row):
    """Load queries and gradients of an item that was announced."""
    dtype: gl.constexpr = inputs.query.dtype
    block: gl.constexpr = inputs.dout.block_type.shape
    GROUP: gl.constexpr = problem.GROUP
    batch, head = head_index // problem.G, head_index % problem.G
    full = queries.full.index(0)
    mbarrier.expect(full, 2 * CONSUMERS * inputs.query.block_type.nbytes)
    for each in gl.static_range(CONSUMERS):
        row = first_row + each * 64
        corner = [batch, row // GROUP, head * GROUP, 0]
        dout = queries.dout.index(each)._reinterpret(dtype, block, inputs.dout.layout)
        tma.async_copy_global_to_shared(inputs.dout, corner, full, dout)
        row += head_index * problem.length * GROUP
        tma.async_copy_global_to_shared(inputs.query, [row, 0], full, queries.query.index(each))


@gluon.jit
def differentiate_items(
    which: gl.constexpr, problem, queries, keys, statistics, gain, rope, outputs
):
    """Run one warpgroup: rows ``which`` * 64 and following of each item."""
    index = 0
    turn = 0
    head_index, tile = take_item(queries, turn)
    while head_index != NONE:
        first_row = tile * CONSUMERS * 64 + which * 64
        query, dq, index = differentiate_rows(
            which, problem, queries, keys, statistics, turn, head_index, tile, index
        )
        row = head_index * problem.tiles * CONSUMERS + first_row // 64
        own = Outputs(outputs.dq, outputs.stride, outputs.dgain + row * problem.GROUP)
        own_gain = gain + head_index % problem.G * problem.GROUP
        finish_rows(dq, query, head_index, first_row, problem, statistics, own_gain, rope, own)
        turn += 1
        head_index, tile = take_item(queries, turn)


@gluon.jit
def differentiate_rows(
    which: gl.constexpr, problem, queries, keys, statistics, turn, head_index, tile, index
):
    """Return query and dquery of 64 rows of the ``turn``-th item, and the next tile's index."""
    KEYS: gl.constexpr = keys.key.shape[1]
    D: gl.constexpr = keys.key.shape[2]
    batch, item_row = head_index // problem.G, tile * CONSUMERS * 64
    first_row = item_row + which * 64
    item_begin, item_end = visible_keys(problem, batch, item_row, CONSUMERS * 64, KEYS)
    begin, end = visible_keys(problem, batch, first_row, 64, KEYS)
    row = first_row + gl.arange(0, 64, gl.SliceLayout(1, product_layout(PART)))
    position, valid = row // problem.GROUP, row < problem.length * problem.GROUP
    start, full_begin, full_end = unmasked_keys(problem, batch, first_row, row, begin, KEYS)
    full_begin = gl.minimum(full_begin, end)
    full_end = gl.maximum(full_begin, gl.minimum(full_end, end))
    offset = head_index * statistics.stride + row
    lse = gl.load(statistics.lse + offset, mask=valid, other=0.0)
    delta = gl.load(statistics.delta + offset, mask=valid, other=0.0)

    query = queries.query.index(which).load(left_layout(PART))
    dout = queries.dout.index(which).load(left_layout(PART))
    release_read(queries, turn)
    rows = Rows(query, dout, lse, delta, position, start)
    dq = gl.zeros([64, D], gl.float32, product_layout(D))
    index = skip(keys, index, (begin - item_begin) // KEYS)
    if problem.documents is not None:
        for first in range(begin, full_begin, KEYS):
            dq = take_keys(rows, dq, keys, index, first, True)
            index += 1
    for first in range(full_begin, full_end, KEYS):
        dq = take_keys(rows, dq, keys, index, first, False)
        index += 1
    for first in range(full_end, end, KEYS):
        dq = take_keys(rows, dq, keys, index, first, True)
        index += 1
    index = skip(keys, index, gl.cdiv(item_end, KEYS) - gl.cdiv(end, KEYS))
    return query, dq, index


@gluon.jit
def take_keys(rows, dq, keys, index, first, MASKED: gl.constexpr):
    """Return dq plus the terms of the ``index``-th tile of keys and values, from ``first`` on.

    In flight during a part's exponentials are its dout v^T, the sum of the part before, and the two
    products of the part after. Nothing is in flight from one tile to the next, because the
    assembler would serialise every product (its note C7514). Four parts do not fit in the registers
    (C7512).
    """
    layout: gl.constexpr = product_layout(PART)
    left: gl.constexpr = left_layout(dq.shape[1])
    parts: gl.constexpr = keys.key.shape[1] // PART
    wait_full(keys, index)
    scoring, weighing = start_part(rows, keys, index, 0)
    summing = dq
    for part in gl.static_range(parts):
        if part + 1 < parts:
            next_scoring, next_weighing = start_part(rows, keys, index, part + 1)
        scores = warpgroup_mma_wait(younger(part, parts) + 1, deps=[scoring])
        weights = gl.exp2(scores - gl.expand_dims(rows.lse, 1))
        if MASKED:
            seen = first + part * PART + gl.arange(0, PART, gl.SliceLayout(0, layout))
            seen = gl.expand_dims(seen, 0)
            visible = seen <= gl.expand_dims(rows.position, 1)
            visible &= seen >= gl.expand_dims(rows.start, 1)
            weights = gl.where(visible, weights, 0.0)
        dweights = warpgroup_mma_wait(younger(part, parts), deps=[weighing])
        dscores = (weights * (dweights - gl.expand_dims(rows.delta, 1))).to(rows.query.dtype)
        key = part_of(keys.key, index, part)
        summing = warpgroup_mma(gl.convert_layout(dscores, left), key, summing, is_async=True)
        if part + 1 < parts:
            scoring, weighing = next_scoring, next_weighing
    dq = warpgroup_mma_wait(0, deps=[summing])
    # With no product in flight, this warpgroup's last read of the stage is complete.
    release(keys, index)
    return dq


@gluon.jit
def start_part(rows, keys, index, part: gl.constexpr):
    """Start query key^T and dout v^T with the ``part``-th PART rows of a tile."""
    zeros = gl.zeros([64, PART], gl.float32, product_layout(PART))
    key = part_of(keys.key, index, part).permute((1, 0))
    value = part_of(keys.value, index, part).permute((1, 0))
    scoring = warpgroup_mma(rows.query, key, zeros, use_acc=False, is_async=True)
    weighing = warpgroup_mma(rows.dout, value, zeros, use_acc=False, is_async=True)
    return scoring, weighing


@gluon.jit
def part_of(tiles, index, part: gl.constexpr):
    """Return the ``part``-th PART rows of the ``index``-th tile of a ring."""
    STAGES: gl.constexpr = tiles.shape[0]
    parts: gl.constexpr = tiles.shape[1] // PART
    # Rows are contiguous, and the swizzle repeats every 8 of them.
    pieces = tiles._reinterpret(tiles.dtype, [STAGES * parts, PART, tiles.shape[2]], tiles.layout)
    return pieces.index(index % STAGES * parts + part)


@gluon.constexpr_function
def younger(part, parts):
    """Return how many products start between the ``part``-th dout v^T and its wait.

    These are the sum of the part before, and two products of the part after.
    """
    return (part > 0) + 2 * (part + 1 < parts)


@gluon.jit
def finish_rows(dq, query, head_index, first_row, problem, statistics, gain, rope, outputs):
    """Take the gradient of 64 scaled queries (64, D) through gain, norm and rope.

    Stores it and the gain's gradient.
    """
    D: gl.constexpr = dq.shape[1]
    GROUP: gl.constexpr = problem.GROUP
    row = first_row + gl.arange(0, 64, gl.SliceLayout(1, product_layout(D)))
    member = row % GROUP
    valid = row < problem.length * GROUP
    gain = gl.load(gain + member)
    scale = query_scale(gain, D)
    first_stat = head_index * statistics.stride
    rstd = gl.load(statistics.rstd + first_stat + row, mask=valid, other=0.0)
    cos, sin = angles(dq, first_row, problem.length, rope, GROUP)
    query = gl.convert_layout(query, product_layout(D))
    # As ``kernels.attention.rope.unscaled``.
    rotated = (query.to(gl.float32) / gl.expand_dims(scale, 1)).to(query.dtype).to(gl.float32)
    projection = gl.where(valid, gl.sum(dq * rotated, 1), 0.0)
    for each in gl.static_range(GROUP):
        counts = (member == each) & (gl.abs(gain) < gain_limit(D))
        gl.store(outputs.dgain + each, gl.sum(gl.where(counts, projection, 0.0), 0) * D**-0.5)
    dq = (dq - rotated * gl.expand_dims(projection / D, 1)) * gl.expand_dims(rstd * scale * LN_2, 1)
    store_rows(rotate(dq, cos, -sin, rope.PAIRS), head_index, first_row, problem, outputs)


@gluon.jit
def store_rows(dq, head_index, first_row, problem, outputs):
    """Store 64 rows of dq (64, D) in pieces of 16 bytes."""
    D: gl.constexpr = dq.shape[1]
    GROUP: gl.constexpr = problem.GROUP
    layout: gl.constexpr = store_layout()
    row = first_row + gl.arange(0, 64, gl.SliceLayout(1, layout))
    dim = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, layout)), 0)
    token = (head_index // problem.G).to(gl.int64) * problem.length + row // GROUP
    line = token * outputs.stride + (head_index % problem.G * GROUP + row % GROUP) * D
    dq = gl.convert_layout(dq.to(outputs.dq.dtype.element_ty), layout)
    valid = gl.expand_dims(row < problem.length * GROUP, 1)
    gl.store(outputs.dq + gl.expand_dims(line, 1) + dim, dq, mask=valid)
