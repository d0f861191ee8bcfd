"""Attention's backward pass on Hopper, third part: gradients of keys and values."""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
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

from kernels.attention.backward_dq_hopper import LN_2
from kernels.attention.schedule_hopper import (
    CONSUMER_REGISTERS,
    CONSUMERS,
    LOADER_REGISTERS,
    WARPGROUP_ROWS,
    Ring,
    angles,
    await_room,
    await_stage,
    heads_descriptor,
    left_layout,
    load_vector,
    make_barriers,
    multiprocessors,
    pass_by,
    product_layout,
    release,
    release_read,
    rows_descriptor,
    turn,
    vector_descriptor,
    window_descriptor,
    work_item,
)

# 64 rows would need 200 registers a thread, and only two warpgroups have so many.
ROWS = Ring(rows=32, stages=4)


def key_gradients(
    inner: Tensor,
    delta: Tensor,
    query: Tensor,
    key: Tensor,
    key_rstd: Tensor,
    v: Tensor,
    rope: Tensor,
    documents: Tensor | None,
    log_sum: Tensor,
    dk: Tensor,
    dv: Tensor,
    xsa: bool,
) -> None:
    """Launch ``key_gradients_kernel``: what ``kernels.attention.backward_dkv`` takes and
    writes."""
    B, G, rows, D = query.shape
    T = key.size(2)
    tiles = -(-T // (CONSUMERS * WARPGROUP_ROWS))
    total = tiles * B * G
    key_gradients_kernel[(min(total, multiprocessors(query.device)),)](
        rows_descriptor(query, ROWS.rows),
        window_descriptor(inner, ROWS.rows, rows // T),
        vector_descriptor(log_sum, ROWS.rows),
        vector_descriptor(delta, ROWS.rows),
        rows_descriptor(key, WARPGROUP_ROWS),
        heads_descriptor(v, WARPGROUP_ROWS),
        rope,
        documents,
        key_rstd,
        dk,
        dv,
        B,
        T,
        dk.stride(1),
        rope.stride(0),
        tiles,
        key_rstd.size(2),
        G=G,
        GROUP=rows // T,
        D=D,
        PAIRS=rope.size(-1),
        XSA=xsa,
        ROWS=ROWS.rows,
        STAGES=ROWS.stages,
        CONSUMERS=CONSUMERS,
        CONSUMER_REGISTERS=CONSUMER_REGISTERS,
        LOADER_REGISTERS=LOADER_REGISTERS,
        num_warps=4,
    )


@gluon.jit
def key_gradients_kernel(
    query_desc,
    inner_desc,
    log_sum_desc,
    delta_desc,
    key_desc,
    v_desc,
    rope_ptr,
    documents_ptr,
    rstd_ptr,
    dk_ptr,
    dv_ptr,
    windows,
    length,
    dk_stride,
    rope_stride,
    tiles,
    rstd_stride,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    PAIRS: gl.constexpr,
    XSA: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    CONSUMERS: gl.constexpr,
    CONSUMER_REGISTERS: gl.constexpr,
    LOADER_REGISTERS: gl.constexpr,
):
    """dk and dv of 192 keys, summed over all rows that see them: a group's heads included.

    Scores are kept transposed, (64 keys, ROWS), so that probabilities and their gradients leave one
    product's registers as the next one's left operand. Formulas as
    ``kernels.attention.backward_dkv`` has them.

    At 98,304 tokens, T = 2048, 8/4 heads of 64: reads query, dO, key, v (302 MB; 50 more with
    XSA), writes dk and dv (101 MB): 94-106 us of traffic under 412 GFLOP (440 us at 940
    TFLOP/s) and 805 M exponentials (228 us).
    """
    dtype: gl.constexpr = query_desc.dtype
    own_keys = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], key_desc.layout)
    own_values = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], v_desc.layout)
    queries = gl.allocate_shared_memory(dtype, [STAGES, ROWS, D], query_desc.layout)
    inners = gl.allocate_shared_memory(dtype, [STAGES, ROWS, D], query_desc.layout)
    log_sums = gl.allocate_shared_memory(gl.float32, [STAGES, 1, ROWS], log_sum_desc.layout)
    deltas = gl.allocate_shared_memory(gl.float32, [STAGES, 1, ROWS], delta_desc.layout)
    own_full, own_empty = make_barriers(1, 1), make_barriers(1, CONSUMERS)
    full, empty = make_barriers(STAGES, 1), make_barriers(STAGES, CONSUMERS)
    fence_async_shared()
    total = windows * G * tiles
    gl.warp_specialize(
        [
            (
                differentiate_keys,
                (
                    0, own_keys, own_values, queries, inners, log_sums, deltas, own_full, own_empty,
                    full, empty, rope_ptr, documents_ptr, rstd_ptr, dk_ptr, dv_ptr, windows,
                    length, dk_stride, rope_stride, tiles, rstd_stride, total, G, GROUP, D, PAIRS,
                    XSA, ROWS, STAGES, CONSUMERS,
                ),
            ),
            (
                differentiate_keys,
                (
                    1, own_keys, own_values, queries, inners, log_sums, deltas, own_full, own_empty,
                    full, empty, rope_ptr, documents_ptr, rstd_ptr, dk_ptr, dv_ptr, windows,
                    length, dk_stride, rope_stride, tiles, rstd_stride, total, G, GROUP, D, PAIRS,
                    XSA, ROWS, STAGES, CONSUMERS,
                ),
            ),
            (
                differentiate_keys,
                (
                    2, own_keys, own_values, queries, inners, log_sums, deltas, own_full, own_empty,
                    full, empty, rope_ptr, documents_ptr, rstd_ptr, dk_ptr, dv_ptr, windows,
                    length, dk_stride, rope_stride, tiles, rstd_stride, total, G, GROUP, D, PAIRS,
                    XSA, ROWS, STAGES, CONSUMERS,
                ),
            ),
            (
                load_tiles,
                (
                    query_desc, inner_desc, log_sum_desc, delta_desc, key_desc, v_desc, own_keys,
                    own_values, queries, inners, log_sums, deltas, own_full, own_empty, full, empty,
                    documents_ptr, windows, length, tiles, total, G, GROUP, D, ROWS, STAGES,
                    CONSUMERS,
                ),
            ),
        ],
        [4, 4, 1],
        [CONSUMER_REGISTERS, CONSUMER_REGISTERS, LOADER_REGISTERS],
    )  # fmt: skip


@gluon.jit
def rows_of_keys(
    documents_ptr,
    windows,
    batch,
    length,
    first_key,
    KEYS: gl.constexpr,
    GROUP: gl.constexpr,
    ROWS: gl.constexpr,
):
    """The rows that see one of ``KEYS`` keys from ``first_key`` on: from begin (a multiple of ROWS)
    to end."""
    begin = gl.minimum(first_key, length) * GROUP // ROWS * ROWS
    stop = length
    if documents_ptr is not None:
        last = gl.minimum(first_key + KEYS, length) - 1
        stop = gl.load(documents_ptr + (windows + batch) * length + last)
    return begin, gl.maximum(stop * GROUP, begin)


@gluon.jit
def load_tiles(
    query_desc,
    inner_desc,
    log_sum_desc,
    delta_desc,
    key_desc,
    v_desc,
    own_keys,
    own_values,
    queries,
    inners,
    log_sums,
    deltas,
    own_full,
    own_empty,
    full,
    empty,
    documents_ptr,
    windows,
    length,
    tiles,
    total,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    CONSUMERS: gl.constexpr,
):
    """One warp: keys and values of each piece of work as soon as there is room, then its rows."""
    dtype: gl.constexpr = query_desc.dtype
    block: gl.constexpr = inner_desc.block_type.shape
    index = 0
    for turn_index in range(gl.cdiv(total, gl.num_programs(0))):
        item = work_item(turn_index)
        if item < total:
            head_index, tile = item // tiles, item % tiles
            batch, head = head_index // G, head_index % G
            first_key = tile * CONSUMERS * 64
            await_room(own_empty, turn_index, 1)
            ready = own_full.index(0)
            mbarrier.expect(ready, 2 * CONSUMERS * key_desc.block_type.nbytes)
            for each in gl.static_range(CONSUMERS):
                own = first_key + each * 64
                tma.async_copy_global_to_shared(
                    key_desc, [head_index * length + own, 0], ready, own_keys.index(each)
                )
                tma.async_copy_global_to_shared(
                    v_desc, [batch * length + own, head * D], ready, own_values.index(each)
                )
            begin, end = rows_of_keys(
                documents_ptr, windows, batch, length, first_key, CONSUMERS * 64, GROUP, ROWS
            )
            for first in range(begin, end, ROWS):
                stage = index % STAGES
                await_room(empty, index, STAGES)
                ready = full.index(stage)
                mbarrier.expect(ready, 2 * query_desc.block_type.nbytes + 8 * ROWS)
                row = head_index * length * GROUP + first
                tma.async_copy_global_to_shared(query_desc, [row, 0], ready, queries.index(stage))
                inner = inners.index(stage)._reinterpret(dtype, block, inner_desc.layout)
                place = [batch, first // GROUP, head * GROUP, 0]
                tma.async_copy_global_to_shared(inner_desc, place, ready, inner)
                tma.async_copy_global_to_shared(
                    log_sum_desc, [head_index, first], ready, log_sums.index(stage)
                )
                tma.async_copy_global_to_shared(
                    delta_desc, [head_index, first], ready, deltas.index(stage)
                )
                index += 1


@gluon.jit
def differentiate_keys(
    which: gl.constexpr,
    own_keys,
    own_values,
    queries,
    inners,
    log_sums,
    deltas,
    own_full,
    own_empty,
    full,
    empty,
    rope_ptr,
    documents_ptr,
    rstd_ptr,
    dk_ptr,
    dv_ptr,
    windows,
    length,
    dk_stride,
    rope_stride,
    tiles,
    rstd_stride,
    total,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    PAIRS: gl.constexpr,
    XSA: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    CONSUMERS: gl.constexpr,
):
    """One warpgroup: keys ``which`` * 64 and following of each piece of work."""
    layout: gl.constexpr = product_layout(D)
    scores_keys: gl.constexpr = gl.SliceLayout(1, product_layout(ROWS))
    index = 0
    for turn_index in range(gl.cdiv(total, gl.num_programs(0))):
        item = work_item(turn_index)
        if item < total:
            head_index, tile = item // tiles, item % tiles
            batch = head_index // G
            first_key = tile * CONSUMERS * 64
            own_key = first_key + which * 64
            begin, end = rows_of_keys(
                documents_ptr, windows, batch, length, first_key, CONSUMERS * 64, GROUP, ROWS
            )
            own_begin, own_end = rows_of_keys(
                documents_ptr, windows, batch, length, own_key, 64, GROUP, ROWS
            )
            own_begin = gl.minimum(own_begin, gl.cdiv(end, ROWS) * ROWS)
            own_end = gl.maximum(own_end, own_begin)
            own = own_key + gl.arange(0, 64, scores_keys)
            stop = gl.zeros_like(own) + length
            all_stop = length
            if documents_ptr is not None:
                stops_ptr = documents_ptr + (windows + batch) * length
                stop = gl.load(stops_ptr + own, mask=own < length, other=0)
                all_stop = gl.load(stops_ptr + gl.minimum(own_key, length - 1))
            whole_begin = gl.minimum(gl.cdiv((own_key + 63) * GROUP, ROWS) * ROWS, own_end)
            whole_end = gl.maximum(all_stop * GROUP // ROWS * ROWS, whole_begin)
            await_stage(own_full, turn_index, 1)
            key = own_keys.index(which).load(left_layout(ROWS))
            value = own_values.index(which).load(left_layout(ROWS))
            release_read(own_empty, turn_index, 1)
            dk = gl.zeros([64, D], gl.float32, layout)
            dv = gl.zeros([64, D], gl.float32, layout)
            skipped = (own_begin - begin) // ROWS
            index = pass_by(full, empty, index, skipped, STAGES)
            for first in range(own_begin, whole_begin, ROWS):
                dk, dv = take_rows(
                    key, value, dk, dv, queries, inners, log_sums, deltas, full, empty,
                    index, first, own, stop, True, GROUP, ROWS, STAGES,
                )  # fmt: skip
                index += 1
            for first in range(whole_begin, whole_end, ROWS):
                dk, dv = take_rows(
                    key, value, dk, dv, queries, inners, log_sums, deltas, full, empty,
                    index, first, own, stop, False, GROUP, ROWS, STAGES,
                )  # fmt: skip
                index += 1
            for first in range(whole_end, own_end, ROWS):
                dk, dv = take_rows(
                    key, value, dk, dv, queries, inners, log_sums, deltas, full, empty,
                    index, first, own, stop, True, GROUP, ROWS, STAGES,
                )  # fmt: skip
                index += 1
            left = gl.cdiv(end, ROWS) - gl.cdiv(own_end, ROWS)
            index = pass_by(full, empty, index, left, STAGES)

            store_keys(dv, head_index, own_key, dv_ptr, length, dk_stride, G, XSA)
            finish_keys(
                dk, gl.convert_layout(key, layout), head_index, own_key, rope_ptr, rstd_ptr, dk_ptr,
                length, dk_stride, rope_stride, rstd_stride, G, D, PAIRS,
            )  # fmt: skip


@gluon.jit
def take_rows(
    key,
    value,
    dk,
    dv,
    queries,
    inners,
    log_sums,
    deltas,
    full,
    empty,
    index,
    first,
    own,
    stop,
    MASKED: gl.constexpr,
    GROUP: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
):
    """What one tile of rows adds to the gradients of 64 keys and values."""
    layout: gl.constexpr = product_layout(ROWS)
    left: gl.constexpr = left_layout(dk.shape[1])
    await_stage(full, index, STAGES)
    stage = index % STAGES
    query, inner = queries.index(stage), inners.index(stage)
    zeros = gl.zeros([64, ROWS], gl.float32, layout)
    scoring = warpgroup_mma(key, query.permute((1, 0)), zeros, use_acc=False, is_async=True)
    weighing = warpgroup_mma(value, inner.permute((1, 0)), zeros, use_acc=False, is_async=True)
    log_sum = load_vector(log_sums.index(stage), ROWS, gl.SliceLayout(0, layout))
    delta = load_vector(deltas.index(stage), ROWS, gl.SliceLayout(0, layout))
    scores = warpgroup_mma_wait(1, deps=[scoring])
    weights = gl.exp2(scores - gl.expand_dims(log_sum, 0))
    if MASKED:
        position = (first + gl.arange(0, ROWS, gl.SliceLayout(0, layout))) // GROUP
        position = gl.expand_dims(position, 0)
        visible = (gl.expand_dims(own, 1) <= position) & (position < gl.expand_dims(stop, 1))
        weights = gl.where(visible, weights, 0.0)
    narrow = gl.convert_layout(weights.to(query.dtype), left)
    dv_sum = warpgroup_mma(narrow, inner, dv, is_async=True)
    dweights = warpgroup_mma_wait(1, deps=[weighing])
    dscores = weights * (dweights - gl.expand_dims(delta, 0))
    if MASKED:
        # Rows that are not there have any delta.
        dscores = gl.where(visible, dscores, 0.0)
    narrow = gl.convert_layout(dscores.to(query.dtype), left)
    dk_sum = warpgroup_mma(narrow, query, dk, is_async=True)
    dk, dv = warpgroup_mma_wait(0, deps=[dk_sum, dv_sum])
    release(empty, index, STAGES)
    return dk, dv


@gluon.jit
def finish_keys(
    dk,
    key,
    head_index,
    own_key,
    rope_ptr,
    rstd_ptr,
    dk_ptr,
    length,
    dk_stride,
    rope_stride,
    rstd_stride,
    G: gl.constexpr,
    D: gl.constexpr,
    PAIRS: gl.constexpr,
):
    """Gradient of 64 turned keys (64, D) through norm and rotary."""
    layout: gl.constexpr = product_layout(D)
    own = own_key + gl.arange(0, 64, gl.SliceLayout(1, layout))
    rstd = gl.load(rstd_ptr + head_index * rstd_stride + own, mask=own < length, other=0.0)
    cos, sin = angles(dk, own_key, length, rope_ptr, rope_stride, 1, PAIRS)
    turned = key.to(gl.float32)
    along = gl.sum(dk * turned, 1) / D
    dk = (dk - turned * gl.expand_dims(along, 1)) * gl.expand_dims(rstd * LN_2, 1)
    dk = turn(dk, cos, -sin, PAIRS)
    store_keys(dk, head_index, own_key, dk_ptr, length, dk_stride, G, False)


@gluon.jit
def store_keys(
    x, head_index, own_key, x_ptr, length, x_stride, G: gl.constexpr, ADDED: gl.constexpr
):
    """Store x (64, D) as the rows of 64 keys of a (B, T, G, D), in 16-byte pieces; ADDED to what is
    there."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    D: gl.constexpr = x.shape[1]
    dtype: gl.constexpr = x_ptr.dtype.element_ty
    if not ADDED:
        x = x.to(dtype)
    x = gl.convert_layout(x, layout)
    own = own_key + gl.arange(0, 64, gl.SliceLayout(1, layout))
    dim = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, layout)), 0)
    token = (head_index // G).to(gl.int64) * length + own
    place = gl.expand_dims(token * x_stride + head_index % G * D, 1) + dim
    mask = gl.expand_dims(own < length, 1)
    if ADDED:
        x = (x + gl.load(x_ptr + place, mask=mask, other=0.0).to(gl.float32)).to(dtype)
    gl.store(x_ptr + place, x, mask=mask)
