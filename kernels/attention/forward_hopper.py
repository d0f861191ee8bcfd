"""Attention's forward pass on Hopper.

Scores are bounded, for queries and keys are normed (``kernels.attention.rope``): no running
maximum, no rescaling of the sum, and the exponential of one tile runs beside the product of the
next.
"""

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

from kernels.attention.schedule_hopper import (
    CONSUMER_REGISTERS,
    CONSUMERS,
    LOADER_REGISTERS,
    WARPGROUP_ROWS,
    Ring,
    await_room,
    await_stage,
    heads_descriptor,
    left_layout,
    make_barriers,
    multiprocessors,
    pass_by,
    product_layout,
    release,
    release_read,
    rows_descriptor,
    unit,
    work_item,
)

KEYS = Ring(rows=64, stages=4)


def attend(
    query: Tensor,
    key: Tensor,
    v: Tensor,
    gate: Tensor | None,
    documents: Tensor | None,
    y: Tensor,
    log_sum: Tensor,
    along: Tensor | None,
) -> None:
    """Launch ``forward_kernel``; shapes as ``kernels.attention.forward.attend`` has them."""
    B, G, rows, D = query.shape
    T = key.size(2)
    tiles = -(-rows // (CONSUMERS * WARPGROUP_ROWS))
    total = tiles * B * G
    forward_kernel[(min(total, multiprocessors(query.device)),)](
        rows_descriptor(query, WARPGROUP_ROWS),
        rows_descriptor(key, KEYS.rows),
        heads_descriptor(v, KEYS.rows),
        v,
        gate,
        documents,
        y,
        log_sum,
        along,
        B,
        T,
        v.stride(1),
        tiles,
        log_sum.size(2),
        G=G,
        GROUP=rows // T,
        D=D,
        KEYS=KEYS.rows,
        STAGES=KEYS.stages,
        CONSUMERS=CONSUMERS,
        CONSUMER_REGISTERS=CONSUMER_REGISTERS,
        LOADER_REGISTERS=LOADER_REGISTERS,
        num_warps=4,
    )


@gluon.jit
def forward_kernel(
    query_desc,
    key_desc,
    v_desc,
    v_ptr,
    gate_ptr,
    documents_ptr,
    y_ptr,
    log_sum_ptr,
    along_ptr,
    windows,
    length,
    v_stride,
    tiles,
    stats_stride,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    CONSUMERS: gl.constexpr,
    CONSUMER_REGISTERS: gl.constexpr,
    LOADER_REGISTERS: gl.constexpr,
):
    """y = sigmoid(gate) * exclude_self(softmax(query key^T) v), query and key turned already.

    query (B, G, T * GROUP, D), scaled by log2(e) / sqrt(D) too; key (B, G, T, D); v (B, T, G, D) of
    token stride ``v_stride``; documents (2, B, T) or None; y (B, T, G * GROUP, D); log_sum and
    along (B, G, T * GROUP) fp32. 192 rows and a ring of 4 tiles of 64 keys and values: 90 KB.

    At 98,304 tokens, T = 2048, 8/4 heads of 64: reads query, key, v (201 MB), writes y (101 MB):
    72 us of traffic under 206 GFLOP (220 us at the 940 TFLOP/s that bare wgmma of this shape runs
    at) and 805 M exponentials (228 us at 16 a clock an SM).
    """
    dtype: gl.constexpr = query_desc.dtype
    queries = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], query_desc.layout)
    keys = gl.allocate_shared_memory(dtype, [STAGES, KEYS, D], key_desc.layout)
    values = gl.allocate_shared_memory(dtype, [STAGES, KEYS, D], v_desc.layout)
    own_full, own_empty = make_barriers(1, 1), make_barriers(1, CONSUMERS)
    full, empty = make_barriers(STAGES, 1), make_barriers(STAGES, CONSUMERS)
    fence_async_shared()
    total = windows * G * tiles
    gl.warp_specialize(
        [
            (
                attend_rows,
                (
                    0, queries, keys, values, own_full, own_empty, full, empty, v_ptr, gate_ptr,
                    documents_ptr, y_ptr, log_sum_ptr, along_ptr, length, v_stride, tiles,
                    stats_stride, total, G, GROUP, D, KEYS, STAGES, CONSUMERS,
                ),
            ),
            (
                attend_rows,
                (
                    1, queries, keys, values, own_full, own_empty, full, empty, v_ptr, gate_ptr,
                    documents_ptr, y_ptr, log_sum_ptr, along_ptr, length, v_stride, tiles,
                    stats_stride, total, G, GROUP, D, KEYS, STAGES, CONSUMERS,
                ),
            ),
            (
                attend_rows,
                (
                    2, queries, keys, values, own_full, own_empty, full, empty, v_ptr, gate_ptr,
                    documents_ptr, y_ptr, log_sum_ptr, along_ptr, length, v_stride, tiles,
                    stats_stride, total, G, GROUP, D, KEYS, STAGES, CONSUMERS,
                ),
            ),
            (
                load_tiles,
                (
                    query_desc, key_desc, v_desc, queries, keys, values, own_full, own_empty, full,
                    empty, documents_ptr, length, tiles, total, G, GROUP, D, KEYS, STAGES,
                    CONSUMERS,
                ),
            ),
        ],
        [4, 4, 1],
        [CONSUMER_REGISTERS, CONSUMER_REGISTERS, LOADER_REGISTERS],
    )  # fmt: skip


@gluon.jit
def keys_of_tile(
    documents_ptr,
    batch,
    length,
    first_row,
    ROWS: gl.constexpr,
    GROUP: gl.constexpr,
    KEYS: gl.constexpr,
):
    """The keys that ``ROWS`` rows from ``first_row`` on see: from begin, a multiple of KEYS."""
    first_row = gl.minimum(first_row, length * GROUP - 1)
    end = gl.minimum((first_row + ROWS - 1) // GROUP + 1, length)
    begin = 0
    if documents_ptr is not None:
        begin = gl.load(documents_ptr + batch * length + first_row // GROUP) // KEYS * KEYS
    return begin, end


@gluon.jit
def load_tiles(
    query_desc,
    key_desc,
    v_desc,
    queries,
    keys,
    values,
    own_full,
    own_empty,
    full,
    empty,
    documents_ptr,
    length,
    tiles,
    total,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    CONSUMERS: gl.constexpr,
):
    """One warp: queries of each piece of work once there is room, then its keys and values."""
    index = 0
    for turn in range(gl.cdiv(total, gl.num_programs(0))):
        item = work_item(turn)
        if item < total:
            head_index, tile = item // tiles, tiles - 1 - item % tiles
            batch, head = head_index // G, head_index % G
            first_row = tile * CONSUMERS * 64
            await_room(own_empty, turn, 1)
            mbarrier.expect(own_full.index(0), CONSUMERS * query_desc.block_type.nbytes)
            for each in gl.static_range(CONSUMERS):
                row = head_index * length * GROUP + first_row + each * 64
                tma.async_copy_global_to_shared(
                    query_desc, [row, 0], own_full.index(0), queries.index(each)
                )
            begin, end = keys_of_tile(
                documents_ptr, batch, length, first_row, CONSUMERS * 64, GROUP, KEYS
            )
            for first in range(begin, end, KEYS):
                stage = index % STAGES
                await_room(empty, index, STAGES)
                ready = full.index(stage)
                mbarrier.expect(ready, 2 * key_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    key_desc, [head_index * length + first, 0], ready, keys.index(stage)
                )
                tma.async_copy_global_to_shared(
                    v_desc, [batch * length + first, head * D], ready, values.index(stage)
                )
                index += 1


@gluon.jit
def attend_rows(
    which,
    queries,
    keys,
    values,
    own_full,
    own_empty,
    full,
    empty,
    v_ptr,
    gate_ptr,
    documents_ptr,
    y_ptr,
    log_sum_ptr,
    along_ptr,
    length,
    v_stride,
    tiles,
    stats_stride,
    total,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    CONSUMERS: gl.constexpr,
):
    """One warpgroup: rows ``which`` * 64 and following of each piece of work."""
    scores_layout: gl.constexpr = product_layout(KEYS)
    sums_layout: gl.constexpr = product_layout(D)
    index = 0
    for turn in range(gl.cdiv(total, gl.num_programs(0))):
        item = work_item(turn)
        if item < total:
            head_index, tile = item // tiles, tiles - 1 - item % tiles
            batch = head_index // G
            tile_row = tile * CONSUMERS * 64
            own_row = tile_row + which * 64
            begin, end = keys_of_tile(
                documents_ptr, batch, length, tile_row, CONSUMERS * 64, GROUP, KEYS
            )
            own_begin, own_end = keys_of_tile(
                documents_ptr, batch, length, own_row, 64, GROUP, KEYS
            )
            row = own_row + gl.arange(0, 64, gl.SliceLayout(1, scores_layout))
            position = row // GROUP
            start = gl.zeros_like(position)
            whole_begin = own_begin
            if documents_ptr is not None:
                starts_ptr = documents_ptr + batch * length
                start = gl.load(starts_ptr + position, mask=position < length, other=0)
                last = gl.minimum((own_row + 63) // GROUP, length - 1)
                whole_begin = gl.cdiv(gl.load(starts_ptr + last), KEYS) * KEYS
            whole_end = (own_row // GROUP + 1) // KEYS * KEYS
            pairs = gl.maximum(gl.minimum(whole_end, own_end) - whole_begin, 0) // (2 * KEYS)
            rest = gl.minimum(whole_begin, own_end) + pairs * 2 * KEYS

            await_stage(own_full, turn, 1)
            query = queries.index(which).load(left_layout(KEYS))
            release_read(own_empty, turn, 1)
            sums = gl.zeros([64, D], gl.float32, sums_layout)
            total_weight = gl.zeros([64], gl.float32, gl.SliceLayout(1, scores_layout))
            index = pass_by(full, empty, index, (own_begin - begin) // KEYS, STAGES)
            if documents_ptr is not None:
                for first in range(own_begin, gl.minimum(whole_begin, own_end), KEYS):
                    sums, total_weight = take_masked(
                        query, sums, total_weight, keys, values, full, empty, index, first,
                        position, start, KEYS, STAGES,
                    )  # fmt: skip
                    index += 1
            for _ in range(pairs):
                sums, total_weight = take_pair(
                    query, sums, total_weight, keys, values, full, empty, index, KEYS, STAGES
                )
                index += 2
            for first in range(rest, own_end, KEYS):
                sums, total_weight = take_masked(
                    query, sums, total_weight, keys, values, full, empty, index, first,
                    position, start, KEYS, STAGES,
                )  # fmt: skip
                index += 1
            left = gl.cdiv(end, KEYS) - gl.cdiv(own_end, KEYS)
            index = pass_by(full, empty, index, left, STAGES)

            valid = row < length * GROUP
            first_stat = head_index * stats_stride
            gl.store(log_sum_ptr + first_stat + row, gl.log2(total_weight), mask=valid)
            total_weight = gl.convert_layout(total_weight, gl.SliceLayout(1, sums_layout))
            finish_rows(
                sums / gl.expand_dims(total_weight, 1), head_index, own_row, v_ptr, gate_ptr, y_ptr,
                along_ptr, length, v_stride, stats_stride, G, GROUP, D,
            )  # fmt: skip


@gluon.jit
def score(query, keys, full, index, KEYS: gl.constexpr, STAGES: gl.constexpr):
    """Start query key^T with the ``index``-th tile of keys."""
    layout: gl.constexpr = product_layout(KEYS)
    await_stage(full, index, STAGES)
    zeros = gl.zeros([64, KEYS], gl.float32, layout)
    key = keys.index(index % STAGES).permute((1, 0))
    return warpgroup_mma(query, key, zeros, use_acc=False, is_async=True)


@gluon.jit
def weigh(scores, sums, total_weight, values, index, STAGES: gl.constexpr):
    """Start adding values weighted by 2^scores."""
    weights = gl.exp2(scores)
    total_weight += gl.sum(weights, 1)
    value = values.index(index % STAGES)
    weights = gl.convert_layout(weights.to(value.dtype), left_layout(value.shape[1]))
    return warpgroup_mma(weights, value, sums, is_async=True), total_weight


@gluon.jit
def take_pair(
    query,
    sums,
    total_weight,
    keys,
    values,
    full,
    empty,
    index,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Two tiles that all rows see: the exponentials of one beside the products of the other.

    Nothing stays in flight from one turn of the loop to the next: the assembler would serialise
    every product (its note C7514).
    """
    even = score(query, keys, full, index, KEYS, STAGES)
    odd = score(query, keys, full, index + 1, KEYS, STAGES)
    scores = warpgroup_mma_wait(1, deps=[even])
    weighing, total_weight = weigh(scores, sums, total_weight, values, index, STAGES)
    scores = warpgroup_mma_wait(1, deps=[odd])
    weighing, total_weight = weigh(scores, weighing, total_weight, values, index + 1, STAGES)
    sums = warpgroup_mma_wait(0, deps=[weighing])
    release(empty, index, STAGES)
    release(empty, index + 1, STAGES)
    return sums, total_weight


@gluon.jit
def take_masked(
    query,
    sums,
    total_weight,
    keys,
    values,
    full,
    empty,
    index,
    first,
    position,
    start,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
):
    """One tile, keys from ``first`` on, of which each row sees those from its start to itself."""
    layout: gl.constexpr = product_layout(KEYS)
    scoring = score(query, keys, full, index, KEYS, STAGES)
    scores = warpgroup_mma_wait(0, deps=[scoring])
    seen = gl.expand_dims(first + gl.arange(0, KEYS, gl.SliceLayout(0, layout)), 0)
    visible = (seen <= gl.expand_dims(position, 1)) & (seen >= gl.expand_dims(start, 1))
    scores = gl.where(visible, scores, -float("inf"))
    weighing, total_weight = weigh(scores, sums, total_weight, values, index, STAGES)
    sums = warpgroup_mma_wait(0, deps=[weighing])
    release(empty, index, STAGES)
    return sums, total_weight


@gluon.jit
def finish_rows(
    y,
    head_index,
    own_row,
    v_ptr,
    gate_ptr,
    y_ptr,
    along_ptr,
    length,
    v_stride,
    stats_stride,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
):
    """XSA, gate and store of 64 rows of softmax's output, in 16-byte pieces."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    y = gl.convert_layout(y, layout)
    row = own_row + gl.arange(0, 64, gl.SliceLayout(1, layout))
    dim = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, layout)), 0)
    valid = row < length * GROUP
    token = (head_index // G).to(gl.int64) * length + row // GROUP
    head = head_index % G
    if along_ptr is not None:
        own = gl.expand_dims(token * v_stride + head * D, 1) + dim
        direction, _ = unit(gl.load(v_ptr + own, mask=gl.expand_dims(valid, 1), other=0.0))
        along = gl.sum(y * direction, 1)
        y -= gl.expand_dims(along, 1) * direction
        gl.store(along_ptr + head_index * stats_stride + row, along, mask=valid)
    line = (token * G + head) * GROUP + row % GROUP
    if gate_ptr is not None:
        logit = gl.load(gate_ptr + line, mask=valid, other=0.0).to(gl.float32)
        y = y / gl.expand_dims(1.0 + gl.exp(-logit), 1)
    place = gl.expand_dims(line * D, 1) + dim
    gl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=gl.expand_dims(valid, 1))
