"""Attention's backward pass on Hopper, third part: gradients of keys and values.

    P = 2^(query key^T - lse);   dscores = P * (dout v^T - delta)
    dv = P^T dout;   dk = dscores^T query through rope and norm

    dout (B, T, H, 64), query, key, v and the results dk and dv (B, T, G, 64) in 16 bits; delta, lse
    (B, G, padded T * GROUP), rstd (B, G, padded T) fp32. Other shapes as in ``saved.Saved``.

Both are sums over all rows that see a key, so over the heads of a group too. Scores are transposed,
(64 keys, rows), so that probabilities and their gradients are the next product's left operand in
the registers that hold them.

At 98,304 tokens, T = 2048, 8/4 heads of 64: reads query, dout, key, v (302 MB; 50 more with XSA),
writes dk and dv (101 MB); 412 GFLOP and 805 M exponentials.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
from typing import Any, NamedTuple

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

from kernels.attention.rope import rope_argument
from kernels.attention.rope_hopper import angles, rotate
from kernels.attention.saved import Saved
from kernels.attention.schedule_hopper import (
    ITEM_ROWS,
    NONE,
    announce,
    end_items,
    make_item,
    next_item,
    schedule,
    take_item,
    unmasked_rows,
    visible_rows,
)
from kernels.common.hopper import (
    CONSUMERS,
    REGISTERS,
    WARPGROUP_ROWS,
    heads_descriptor,
    left_layout,
    load_vector,
    make_barriers,
    product_layout,
    release,
    release_read,
    rows_descriptor,
    skip,
    store_layout,
    vector_descriptor,
    wait_empty,
    wait_full,
    window_descriptor,
)
from kernels.common.launch import Launch
from kernels.common.math import LN_2

# Keys of an item, rows of a tile of the ring, its stages. 64 rows would need 200 registers a
# thread, and only two warpgroups have so many. Microseconds of the backward pass: H100, 98,304
# tokens, 8/4 heads of 64, febceab, 4 stages (variants-h100.md; with PART 64 in the dq kernel).
LAUNCH = Launch(rows=32, columns=ITEM_ROWS, stages=12)  # 1368.7; with XSA 1447.9
# Warpgroups that alternate (ping-pong), two ways: 1400.1, 1409.7; with XSA 1482.2, 1490.7


class Inputs(NamedTuple):
    """TMA descriptors."""

    query: Any
    dout: Any
    lse: Any
    delta: Any
    key: Any
    v: Any


class Keys(NamedTuple):
    """An item, its keys and values, 64 for each consumer: a ring of one stage."""

    item: Any
    key: Any
    value: Any
    full: Any
    empty: Any


class Rows(NamedTuple):
    """A ring of rows: queries and gradients, and the numbers lse and delta of each."""

    query: Any
    dout: Any
    lse: Any
    delta: Any
    full: Any
    empty: Any


class Statistics(NamedTuple):
    """1/rms of keys, with ``stride`` elements between groups."""

    rstd: Any
    stride: Any


class Outputs(NamedTuple):
    """dk and dv, elements between their tokens, and whether XSA's part is in dv already."""

    dk: Any
    dv: Any
    stride: Any
    XSA: Any


class OwnKeys(NamedTuple):
    """64 keys in registers: key and value (64, D).

    Of each key its position and its stop, the first later position that does not see it.
    """

    key: Any
    value: Any
    position: Any
    stop: Any


def backward_dkv(saved: Saved, dout: Tensor, delta: Tensor, dk: Tensor, dv: Tensor) -> None:
    """Launch ``backward_dkv_kernel``. See ``kernels.attention.backward_dkv.backward_dkv``."""
    query, key, key_rstd = saved.query, saved.key, saved.key_rstd
    problem, grid = schedule(query, key, saved.documents, key.size(2))
    backward_dkv_kernel[grid](
        rows_descriptor(query, LAUNCH.rows),
        window_descriptor(dout, LAUNCH.rows, saved.group),
        vector_descriptor(saved.lse, LAUNCH.rows),
        vector_descriptor(delta, LAUNCH.rows),
        rows_descriptor(key, WARPGROUP_ROWS),
        heads_descriptor(saved.v, WARPGROUP_ROWS),
        problem,
        Statistics(key_rstd, key_rstd.size(2)),
        rope_argument(saved.rope),
        Outputs(dk, dv, dk.stride(1), gl.constexpr(saved.v_projection is not None)),
        STAGES=LAUNCH.stages,
        num_warps=LAUNCH.warps,
    )


@gluon.jit
def backward_dkv_kernel(
    query_desc,
    dout_desc,
    lse_desc,
    delta_desc,
    key_desc,
    v_desc,
    problem,
    statistics,
    rope,
    outputs,
    STAGES: gl.constexpr,
):
    """Run one block: three warpgroups differentiate 64 keys each, one warp loads."""
    dtype: gl.constexpr = query_desc.dtype
    ROWS: gl.constexpr = query_desc.block_type.shape[0]
    D: gl.constexpr = query_desc.block_type.shape[1]
    key = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], key_desc.layout)
    value = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], v_desc.layout)
    query = gl.allocate_shared_memory(dtype, [STAGES, ROWS, D], query_desc.layout)
    dout = gl.allocate_shared_memory(dtype, [STAGES, ROWS, D], query_desc.layout)
    lse = gl.allocate_shared_memory(gl.float32, [STAGES, 1, ROWS], lse_desc.layout)
    delta = gl.allocate_shared_memory(gl.float32, [STAGES, 1, ROWS], delta_desc.layout)
    keys = Keys(make_item(), key, value, make_barriers(1, 2), make_barriers(1, CONSUMERS))
    barriers = make_barriers(STAGES, 1), make_barriers(STAGES, CONSUMERS)
    rows = Rows(query, dout, lse, delta, barriers[0], barriers[1])
    fence_async_shared()
    inputs = Inputs(query_desc, dout_desc, lse_desc, delta_desc, key_desc, v_desc)
    gl.warp_specialize(
        [
            (differentiate_items, (0, problem, keys, rows, statistics, rope, outputs)),
            (differentiate_items, (1, problem, keys, rows, statistics, rope, outputs)),
            (differentiate_items, (2, problem, keys, rows, statistics, rope, outputs)),
            (load_tiles, (problem, keys, rows, inputs)),
        ],
        [4, 4, 1],
        REGISTERS,
    )


@gluon.jit
def load_tiles(problem, keys, rows, inputs):
    """Load keys and values of each item once they have a buffer, then its rows: one warp."""
    ROWS: gl.constexpr = rows.query.shape[1]
    index = 0
    turn = 0
    head_index, tile = next_item(problem, turn, True)
    while head_index != NONE:
        first_key = tile * CONSUMERS * 64
        announce(keys, turn, head_index, tile)
        load_keys(problem, keys, inputs, head_index, first_key)
        batch = head_index // problem.G
        begin, end = visible_rows(problem, batch, first_key, CONSUMERS * 64, ROWS)
        for first in range(begin, end, ROWS):
            load_rows(problem, rows, inputs, index, head_index, first)
            index += 1
        turn += 1
        head_index, tile = next_item(problem, turn, True)
    end_items(keys, turn)


@gluon.jit
def load_keys(problem, keys, inputs, head_index, first_key):
    """Load keys and values of an item that was announced."""
    D: gl.constexpr = keys.key.shape[2]
    batch, head = head_index // problem.G, head_index % problem.G
    full = keys.full.index(0)
    mbarrier.expect(full, 2 * CONSUMERS * inputs.key.block_type.nbytes)
    for each in gl.static_range(CONSUMERS):
        own = first_key + each * 64
        row, token = head_index * problem.length + own, batch * problem.length + own
        tma.async_copy_global_to_shared(inputs.key, [row, 0], full, keys.key.index(each))
        tma.async_copy_global_to_shared(inputs.v, [token, head * D], full, keys.value.index(each))


@gluon.jit
def load_rows(problem, rows, inputs, index, head_index, first):
    """Load the ``index``-th tile of rows, those from ``first`` on."""
    dtype: gl.constexpr = inputs.query.dtype
    block: gl.constexpr = inputs.dout.block_type.shape
    STAGES: gl.constexpr = rows.query.shape[0]
    ROWS: gl.constexpr = rows.query.shape[1]
    GROUP: gl.constexpr = problem.GROUP
    batch, head = head_index // problem.G, head_index % problem.G
    stage = index % STAGES
    wait_empty(rows, index)
    full = rows.full.index(stage)
    mbarrier.expect(full, 2 * inputs.query.block_type.nbytes + 8 * ROWS)
    row = head_index * problem.length * GROUP + first
    tma.async_copy_global_to_shared(inputs.query, [row, 0], full, rows.query.index(stage))
    dout = rows.dout.index(stage)._reinterpret(dtype, block, inputs.dout.layout)
    corner = [batch, first // GROUP, head * GROUP, 0]
    tma.async_copy_global_to_shared(inputs.dout, corner, full, dout)
    corner = [head_index, first]
    tma.async_copy_global_to_shared(inputs.lse, corner, full, rows.lse.index(stage))
    tma.async_copy_global_to_shared(inputs.delta, corner, full, rows.delta.index(stage))


@gluon.jit
def differentiate_items(which: gl.constexpr, problem, keys, rows, statistics, rope, outputs):
    """Run one warpgroup: keys ``which`` * 64 and following of each item."""
    index = 0
    turn = 0
    head_index, tile = take_item(keys, turn)
    while head_index != NONE:
        first_key = tile * CONSUMERS * 64 + which * 64
        key, dk, dv, index = differentiate_keys(
            which, problem, keys, rows, turn, head_index, tile, index
        )
        finish_keys(key, dk, dv, head_index, first_key, problem, statistics, rope, outputs)
        turn += 1
        head_index, tile = take_item(keys, turn)


@gluon.jit
def differentiate_keys(which: gl.constexpr, problem, keys, rows, turn, head_index, tile, index):
    """Return key, dkey and dv of 64 keys of the ``turn``-th item, and the next tile's index."""
    ROWS: gl.constexpr = rows.query.shape[1]
    D: gl.constexpr = keys.key.shape[2]
    batch, item_key = head_index // problem.G, tile * CONSUMERS * 64
    first_key = item_key + which * 64
    item_begin, item_end = visible_rows(problem, batch, item_key, CONSUMERS * 64, ROWS)
    begin, end = visible_rows(problem, batch, first_key, 64, ROWS)
    begin = gl.minimum(begin, gl.cdiv(item_end, ROWS) * ROWS)
    end = gl.maximum(end, begin)
    position = first_key + gl.arange(0, 64, gl.SliceLayout(1, product_layout(ROWS)))
    stop, full_begin, full_end = unmasked_rows(problem, batch, first_key, position, ROWS)
    full_begin = gl.minimum(full_begin, end)
    full_end = gl.maximum(full_end, full_begin)

    key = keys.key.index(which).load(left_layout(ROWS))
    value = keys.value.index(which).load(left_layout(ROWS))
    release_read(keys, turn)
    own = OwnKeys(key, value, position, stop)
    dk = gl.zeros([64, D], gl.float32, product_layout(D))
    dv = gl.zeros([64, D], gl.float32, product_layout(D))
    index = skip(rows, index, (begin - item_begin) // ROWS)
    for first in range(begin, full_begin, ROWS):
        dk, dv = take_rows(own, dk, dv, rows, index, first, problem.GROUP, True)
        index += 1
    for first in range(full_begin, full_end, ROWS):
        dk, dv = take_rows(own, dk, dv, rows, index, first, problem.GROUP, False)
        index += 1
    for first in range(full_end, end, ROWS):
        dk, dv = take_rows(own, dk, dv, rows, index, first, problem.GROUP, True)
        index += 1
    index = skip(rows, index, gl.cdiv(item_end, ROWS) - gl.cdiv(end, ROWS))
    return key, dk, dv, index


@gluon.jit
def take_rows(own, dk, dv, rows, index, first, GROUP: gl.constexpr, MASKED: gl.constexpr):
    """Return dk and dv plus the terms of the ``index``-th tile of rows, from ``first`` on."""
    STAGES: gl.constexpr = rows.query.shape[0]
    ROWS: gl.constexpr = rows.query.shape[1]
    layout: gl.constexpr = product_layout(ROWS)
    left: gl.constexpr = left_layout(dk.shape[1])
    wait_full(rows, index)
    stage = index % STAGES
    query, dout = rows.query.index(stage), rows.dout.index(stage)
    zeros = gl.zeros([64, ROWS], gl.float32, layout)
    scoring = warpgroup_mma(own.key, query.permute((1, 0)), zeros, use_acc=False, is_async=True)
    weighing = warpgroup_mma(own.value, dout.permute((1, 0)), zeros, use_acc=False, is_async=True)
    lse = load_vector(rows.lse.index(stage), ROWS, gl.SliceLayout(0, layout))
    delta = load_vector(rows.delta.index(stage), ROWS, gl.SliceLayout(0, layout))
    scores = warpgroup_mma_wait(1, deps=[scoring])
    weights = gl.exp2(scores - gl.expand_dims(lse, 0))
    if MASKED:
        position = (first + gl.arange(0, ROWS, gl.SliceLayout(0, layout))) // GROUP
        position = gl.expand_dims(position, 0)
        visible = gl.expand_dims(own.position, 1) <= position
        visible &= position < gl.expand_dims(own.stop, 1)
        weights = gl.where(visible, weights, 0.0)
    narrow = gl.convert_layout(weights.to(query.dtype), left)
    dv_sum = warpgroup_mma(narrow, dout, dv, is_async=True)
    dweights = warpgroup_mma_wait(1, deps=[weighing])
    dscores = weights * (dweights - gl.expand_dims(delta, 0))
    if MASKED:
        # Rows beyond the window have an arbitrary delta.
        dscores = gl.where(visible, dscores, 0.0)
    narrow = gl.convert_layout(dscores.to(query.dtype), left)
    dk_sum = warpgroup_mma(narrow, query, dk, is_async=True)
    dk, dv = warpgroup_mma_wait(0, deps=[dk_sum, dv_sum])
    release(rows, index)
    return dk, dv


@gluon.jit
def finish_keys(key, dk, dv, head_index, first_key, problem, statistics, rope, outputs):
    """Store dv and the gradient of 64 rotated keys (64, D), taken through norm and rope."""
    D: gl.constexpr = dk.shape[1]
    position = first_key + gl.arange(0, 64, gl.SliceLayout(1, product_layout(D)))
    rstd_ptr = statistics.rstd + head_index * statistics.stride
    rstd = gl.load(rstd_ptr + position, mask=position < problem.length, other=0.0)
    cos, sin = angles(dk, first_key, problem.length, rope, 1)
    store_keys(dv, outputs.dv, head_index, first_key, problem, outputs.stride, outputs.XSA)
    rotated = gl.convert_layout(key, product_layout(D)).to(gl.float32)
    projection = gl.sum(dk * rotated, 1) / D
    dk = (dk - rotated * gl.expand_dims(projection, 1)) * gl.expand_dims(rstd * LN_2, 1)
    dk = rotate(dk, cos, -sin, rope.PAIRS)
    store_keys(dk, outputs.dk, head_index, first_key, problem, outputs.stride, False)


@gluon.jit
def store_keys(x, out, head_index, first_key, problem, stride, ADD: gl.constexpr):
    """Store x (64, D) fp32 as the rows of 64 keys of ``out`` (B, T, G, D), in pieces of 16 bytes.

    If ADD, x is added to these rows.
    """
    layout: gl.constexpr = store_layout()
    D: gl.constexpr = x.shape[1]
    dtype: gl.constexpr = out.dtype.element_ty
    position = first_key + gl.arange(0, 64, gl.SliceLayout(1, layout))
    dim = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, layout)), 0)
    token = (head_index // problem.G).to(gl.int64) * problem.length + position
    offset = gl.expand_dims(token * stride + head_index % problem.G * D, 1) + dim
    mask = gl.expand_dims(position < problem.length, 1)
    if ADD:
        before = gl.load(out + offset, mask=mask, other=0.0).to(gl.float32)
        x = (gl.convert_layout(x, layout) + before).to(dtype)
    else:
        x = gl.convert_layout(x.to(dtype), layout)
    gl.store(out + offset, x, mask=mask)
